"""What was published, with what the report beside each release says."""

from pathlib import Path

import pytest
from report_samples import failed, passed

from mmdeploy.core.errors import UsageError
from mmdeploy.report.published import previous, published, published_names
from mmdeploy.triton.repository import publish
from mmdeploy.triton.staging import write_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two releases: what passed is the older one."""
    for index, report in enumerate((passed(), failed())):
        staged = tmp_path / f"staged{index}"
        staged.mkdir()
        (staged / "model.txt").write_text(str(index))
        write_manifest(staged, "pair")
        (tmp_path / "report.json").write_text(report.to_json())
        extra = {"report.json": tmp_path / "report.json"}
        publish(staged, tmp_path / "root", "pair", release_id=f"r{index}", extra_files=extra)
    return tmp_path / "root"


def test_a_release_tells_the_figures_that_it_was_judged_by_the_worst_first(root: Path) -> None:
    good, bad = published(root, "pair")
    assert published_names(root) == ("pair",)
    assert (good.release.release_id, good.live_since) == ("r0", None) and bad.live_since is not None
    assert good.report == passed() and not good.unreadable
    assert len(good.gates) == len(passed().gates)
    assert good.gates[0] == "parity: image_encoder: cosine 0.99962 (>= 0.995)"
    worst = next(gate for gate in failed().gates if gate.verdict == "fail")
    assert bad.gates[0].startswith(f"{worst.gate}: ")
    told = bad.to_json()
    assert (told["verdict"], told["recipe_sha256"]) == ("fail", failed().recipe.sha256)
    assert told["bytes"] == sum(path.stat().st_size for path in bad.release.path.rglob("*") if path.is_file())


def test_a_report_of_another_version_hides_no_release(root: Path) -> None:
    (root / ".releases/pair/r0/report.json").write_text('{"schema_version": 99}')
    assert "schema version 99" in published(root, "pair")[0].unreadable


def test_the_release_before_the_live_one(root: Path) -> None:
    assert previous(root, "pair").release_id == "r0"
    (root / "pair").unlink()
    with pytest.raises(UsageError, match="no release of pair is live"):
        previous(root, "pair")

import json
from pathlib import Path

import pytest

from mmdeploy.core.errors import StoreError
from mmdeploy.triton.staging import write_manifest
from mmdeploy.triton.swap_folder import RECORD, lay_out


def written_release(root: Path) -> Path:
    for name in ("pets", "pets.see"):
        (root / "1a" / name / "1").mkdir(parents=True)
        (root / "1a" / name / "config.pbtxt").write_text(f'name: "{name}"')
    (root / "1a/pets/1/README.txt").write_text("kept")
    write_manifest(root / "1a", "pets")
    return root / "1a"


def test_a_release_is_laid_out_with_its_ensemble_copied_and_the_rest_linked(tmp_path: Path) -> None:
    release = written_release(tmp_path)
    folder = lay_out(release, tmp_path / "served/0")
    assert not (folder / "pets").is_symlink() and (folder / "pets/1/README.txt").read_text() == "kept"
    assert (folder / "pets.see").resolve() == release / "pets.see"
    assert json.loads((folder / "pets" / RECORD).read_text())["release"] == "1a"


def test_what_cannot_be_laid_out_is_one_error_and_leaves_nothing_that_would_be_taken_for_whole(tmp_path: Path) -> None:
    release = written_release(tmp_path)
    (release / "pets/1/README.txt").unlink()
    (release / "pets/1/README.txt").symlink_to("gone")
    with pytest.raises(StoreError, match=r"cannot lay .*1a out in .*served/0: No such file"):
        lay_out(release, tmp_path / "served/0")
    assert not (tmp_path / "served/0").exists()

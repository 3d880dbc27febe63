"""A build that searches and measures, and the build of the plain recipe that it leaves: the same files, no search."""

import hashlib
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.observer import Silent
from mmdeploy.triton.staging import KEEPER

pytestmark = [pytest.mark.triton, pytest.mark.slow]

#: left: a quantization that has to pay; on so small a layer it hardly will.
#: right: a search that ships whatever it costs.
#: fusion: wide enough for INT8 to win, behind what ships upstream, in one of several engines and encodings.
SEARCHED = """\
base: recipe/recipe.yaml
data: {training: recipe/data.py:training, validation: recipe/data.py:validation}
components:
  left: {keep: if_it_pays}
  right: {quantize: {method: auto, must_pay: false, max_drop: 0.2}}
  fusion:
    prune: {method: structured, ratio: 0.3}
    quantize: {method: auto, must_pay: false, max_drop: 0.5}
    engine: {method: auto, max_drop: 0.5, max_seconds: 5, engines: [onnxruntime]}
gates:
  - {method: size, max_ratio_to_reference: 20}
"""


def build(recipe: Path, workdir: Path) -> Outcome:
    loaded = mmdeploy.load_recipe(recipe)
    outcome = run_build(loaded, Settings(workdir=workdir, destination=workdir / "published"), Silent())
    if outcome.error is not None:
        raise outcome.error
    return outcome


def shipped(outcome: Outcome) -> dict[str, str]:
    staged = outcome.report.staged
    files = [file for file in sorted(staged.glob("*/1/*")) if file.is_file()]
    return {str(file.relative_to(staged)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_plain_recipe_builds_the_same_files_without_searching(tiny_recipe: Path, tmp_path: Path) -> None:
    model = tiny_recipe.with_name("model.py")
    hidden = "nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 512))"
    wide = model.read_text().replace("nn.Linear(32, 32)", hidden).replace("nn.Linear(32, 4)", "nn.Linear(512, 4)")
    model.write_text(wide)
    variant = tmp_path / "searched.yaml"
    variant.write_text(SEARCHED)
    found = build(variant, tmp_path / "work")
    path = found.report.plain_recipe
    assert path == found.folder / "plain_recipe.yaml"
    assert {step.kind for step in found.report.steps} >= {"select", "prune"}

    plain = build(path, tmp_path / "work")
    assert plain.report.verdict is Verdict.PASS
    models = {f"two_towers.{name}/1/model.onnx" for name in ("left", "right", "fusion")}
    assert set(shipped(found)) == {*models, f"two_towers/1/{KEEPER}"}
    assert shipped(plain) == shipped(found)
    assert plain.report.plain_recipe is None  # there is nothing left to find
    assert "select" not in {step.kind for step in plain.report.steps}
    assert not {"auto", "must_pay"} & {step.method for step in plain.report.steps}

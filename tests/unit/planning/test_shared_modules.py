"""Components that call one module are built once, or refused: they never become two modules."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from fused_samples import exported, samples_of
from recorded_sets import set_artifact, training_setup
from test_planner import TINY, plan_of
from torch import nn

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import ModelError, RecipeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.model.sharing import common_part
from mmdeploy.model.torch_component import ComponentFacts, load_component
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.sharing import above, apart, below, callers
from mmdeploy.worker import feeds as step_feeds
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Validation
from mmdeploy.worker.task import Task

ONE = ("components.right.module=left",)


def test_both_have_the_steps_of_the_first():
    plan = plan_of(*ONE)
    keys = {step.id: step.key for step in plan.steps}
    for suffix in ("export", "quantize", "engine", "reference"):
        assert keys[f"right/{suffix}"] == keys[f"left/{suffix}"]
        assert plan.step(f"right/{suffix}").needs == (f"left/{suffix}",)
    assert len({keys[step_id] for step_id in ("left/engine", "fusion/engine")}) == 2
    plain = {step.id: step.key for step in plan_of().steps}
    assert keys["left/quantize"] != plain["left/quantize"]  # it is calibrated on both inputs now


def test_what_is_given_to_the_other_is_part_of_what_decides():
    swapped = plan_of(*ONE, "components.right.inputs.values=a", "components.left.inputs.values=b")
    assert swapped.step("left/export").key != plan_of(*ONE).step("left/export").key


def test_without_compression_they_stay_as_they_are():
    plan = plan_of(*ONE, "components.left.quantize=null", "components.right.quantize=null")
    assert plan.step("right/engine").needs == ("right/export", "data/calibration")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("components.right.quantize.samples=32", "their quantize sections differ"),
        ("components.right.quantize=null", "their quantize sections differ"),
        ("components.right.keep=if_faster", "their keep sections differ"),
        ("components.right.serving.max_batch_size=4", "their serving.max_batch_size differ"),
        ("inputs.b.shape=[9]", "their inputs differ in name, type or shape"),
    ],
)
def test_components_that_cannot_be_one_are_refused(override, why):
    with pytest.raises(RecipeError) as caught:
        load_recipe(TINY, (*ONE, override))
    assert "'left' is the module of 'left' too" in str(caught.value) and why in str(caught.value)


def test_a_module_that_feeds_itself_is_refused():
    with pytest.raises(RecipeError, match="one feeds the other"):
        load_recipe(TINY, (*ONE, "components.right.inputs.values=left_embedding"))


def test_neighbours():
    components = load_recipe(TINY, ONE).components
    assert callers(components, "right") == callers(components, "left") == ("left", "right")
    assert below(components, "right") == {"fusion"} and above(components, "right") == ()
    assert above(components, "fusion") == ("left", "right")
    assert apart(components, "left") == (("fusion", "fusion"),)


def test_calibration_has_what_both_are_given(tmp_path):
    recipe = load_recipe(TINY, ONE)
    artifacts = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", tmp_path)}
    step = Step("left/quantize", "left", "quantize", "static", {"samples": 32, "batch_size": 16}, (), {})
    feeds, count = step_feeds.calibration(Task(step, recipe, Path(), artifacts, 1))
    assert feeds is not None
    batches = [batch["values"] for batch in feeds()]
    assert count == len(batches) == 4
    alone, _ = step_feeds.calibration(Task(step, load_recipe(TINY), Path(), artifacts, 1))
    assert alone is not None
    for batch, wanted in zip(batches[::2], alone(), strict=True):
        np.testing.assert_array_equal(batch, wanted["values"])
    assert not np.array_equal(batches[0], batches[1])


def test_training_puts_the_module_in_both_places():
    setup = training_setup(
        load_recipe(TINY, (*ONE, "data.training=data.py:calibration", "data.validation=data.py:validation")), "left"
    )
    calls = []

    class Spy(nn.Module):
        def forward(self, values):
            calls.append(values)
            return values.new_zeros(len(values), 16)

    feeds = {name: torch.from_numpy(array) for name, array in samples_of(8).items()}
    dict(setup.network(Spy())(feeds))
    assert len(calls) == 2
    assert torch.equal(calls[0], feeds["a"]) and torch.equal(calls[1], feeds["b"])


def test_a_candidate_is_scored_in_both_places(tmp_path):
    recipe = load_recipe(TINY, ONE)
    graphs = {name: exported(recipe, name, tmp_path / name).path for name in recipe.components}
    feeds = samples_of(32)
    around = FusedEnsemble(recipe, "left", Graphs({}, graphs), Validation(feeds, np.zeros(32, int)))
    assert around.score(graphs["left"]).cosine == pytest.approx(1.0)
    other = exported(load_recipe(TINY), "right", tmp_path / "other").path  # another tower in the place of both
    swapped = {**graphs, "left": other, "right": other}
    wanted = FusedEnsemble(recipe, "fusion", Graphs(swapped, swapped), Validation(feeds, np.zeros(32, int)))
    assert around.score(other).metric == wanted.original().metric


def of(folder: Path, module: str, **facts: object) -> Artifact:
    (folder / "model.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.one = nn.Sequential(nn.Linear(4, 4))\n        self.same = self.one\n"
        "        self.tied = nn.Linear(4, 4)\n        self.tied.weight = self.one[0].weight\n"
        "        self.inner = nn.Sequential(self.one[0])\n        self.own = nn.Linear(4, 4)\n\nbuild = Net\n"
    )
    found = ComponentFacts("model.py:build", folder, None, module, ("input",), ("y",), **facts)  # type: ignore[arg-type]
    return Artifact("torch", folder / "model.py", "", (), (), "recipe", as_metadata(found))


@pytest.mark.parametrize(
    ("path", "retrained", "common"),
    [
        ("same", False, "everything"), ("tied", True, "the weight '0.weight'"), ("inner", True, "the module '0'"),
        ("tied", False, None), ("inner", False, None), ("own", True, None),
    ],
)  # fmt: skip
def test_modules_under_two_paths_are_seen_when_the_model_is_built(tmp_path, path, retrained, common):
    artifact = of(tmp_path, "one", apart=(("other", path),), retrained=("other",) if retrained else ())
    if common is None:
        load_component(artifact)
        return
    with pytest.raises(ModelError, match=f"has {common} in common with '{path}', the module of component other"):
        load_component(artifact)


def test_a_copy_has_nothing_in_common():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert common_part(module, copy.deepcopy(module), weights_too=True) is None
    assert common_part(nn.Sequential(module[1]), nn.Sequential(module[1]), weights_too=True) is None

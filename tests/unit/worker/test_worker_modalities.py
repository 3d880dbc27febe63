"""Inputs that are missing on the PyTorch side: what the model is given, and what stands in for embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_sets import recorded_set, set_artifact

from mmdeploy.core.contracts import no_progress
from mmdeploy.core.errors import DataError, ModelError
from mmdeploy.core.samples import column_of
from mmdeploy.core.strings import as_strings
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.data.samples import stream
from mmdeploy.model.sources import resolve_callable
from mmdeploy.planning.steps import DATA_SETS, STAND_INS, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker import feeds as step_feeds
from mmdeploy.worker.media import postprocessed, preparation
from mmdeploy.worker.modalities import Modalities, read_stand_ins
from mmdeploy.worker.stand_ins import record_stand_ins
from mmdeploy.worker.task import Task

RECIPE = Path(__file__).parents[2] / "missing_recipe/recipe.yaml"


def stand_ins_of(recipe: Recipe, folder: Path) -> Task:
    """Run the step that makes stand-ins; return the task of another step, with what it made."""
    step = Step(STAND_INS, "original", "stand_ins", "torch", {"samples": 64}, (), {})
    given = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", folder)}
    (folder / "made").mkdir()
    made = record_stand_ins(Task(step, recipe, Path(), given, 1), folder / "made", no_progress)
    later = Step("head/quantize", "head", "train", "qat", {"samples": 64, "batch_size": 16}, (), {})
    return Task(later, recipe, Path(), given | {STAND_INS: made}, 1)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return stand_ins_of(load_recipe(RECIPE), tmp_path_factory.mktemp("stand_ins"))


@pytest.fixture(scope="module")
def model(task: Task) -> torch.nn.Module:
    return step_feeds.torch_chain(task, ["head"]).model


def noise(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {name: random.standard_normal((rows, 8)).astype(np.float32) for name in ("seen", "heard", "felt")}


def test_stand_ins_are_what_the_strategies_say(task, model):
    found = read_stand_ins(task.artifacts[STAND_INS])
    samples = step_feeds.sample_set(task, "calibration").feeds()
    with torch.inference_mode():
        mean = model.optic_nerve(model.eye(torch.from_numpy(np.array(samples["seen"])))).mean(dim=0).numpy()
    np.testing.assert_allclose(found["sight"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["sound"], np.zeros(16, np.float32))
    np.testing.assert_array_equal(found["touch"], model.head.nothing_felt.detach().numpy())


def test_a_batch_of_samples_that_lack_different_inputs_is_answered_row_by_row(task, model):
    modalities = Modalities.of(task)
    chain = step_feeds.torch_chain(task, topological_order(task.recipe.components))
    feeds = noise(4)
    feeds["seen"][2] = 0.5  # nothing is seen in it
    del feeds["felt"]
    together = modalities.run(chain, feeds)
    stand_ins = read_stand_ins(task.artifacts[STAND_INS])
    for row in range(4):
        heard = torch.from_numpy(feeds["heard"][row : row + 1])
        with torch.inference_mode():
            sight = model.optic_nerve(model.eye(torch.from_numpy(feeds["seen"][row : row + 1])))
            sight = torch.from_numpy(stand_ins["sight"])[None] if row == 2 else sight
            logits = model.head(sight, model.ear(heard), model.head.nothing_felt[None], torch.tensor([[True]]))
        np.testing.assert_allclose(together["logits"][row], logits[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together["hearing"], np.ones((4, 1), bool))


def test_every_subset_has_its_share_of_the_calibration_and_half_of_it_is_whole(task):
    feeds, count = step_feeds.calibration(task)
    batches = list(feeds())
    assert count == len(batches) == 4
    stand_ins = read_stand_ins(task.artifacts[STAND_INS])
    sight, touch, hearing = (
        np.concatenate([batch[name] for batch in batches]) for name in ("sight", "touch", "hearing")
    )
    without_seen = (sight == stand_ins["sight"]).all(axis=1)
    without_felt = (touch == stand_ins["touch"]).all(axis=1)
    assert [int(part.sum()) for part in (without_seen, without_felt, ~hearing[:, 0])] == [8, 16, 16]
    assert int((~without_seen & ~without_felt & hearing[:, 0]).sum()) == 32


def test_a_sample_of_which_nothing_would_be_left_stays_whole(task):
    modalities, feeds = Modalities.of(task), noise(8)
    feeds["seen"][:] = 0.0  # so without heard and felt nothing is left
    left = {tuple(sorted(absent)) for _, absent in modalities.patterns(feeds, 0)}
    assert ("felt", "heard", "seen") not in left
    assert ("heard", "seen") in left


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("head.nothing_flet", "no parameter 'head.nothing_flet'"),
        ("head.classify.weight", "is [4, 16], and what it stands"),
    ],
)
def test_a_parameter_that_cannot_stand_in_is_refused(tmp_path, parameter, told):
    recipe = load_recipe(RECIPE, [f"inputs.felt.missing.parameter={parameter}"])
    with pytest.raises(ModelError) as caught:
        stand_ins_of(recipe, tmp_path)
    assert told in caught.value.message
    assert "inputs.felt.missing.parameter" in caught.value.message


def test_without_a_sample_that_holds_the_input_there_is_no_mean(tmp_path):
    recipe = load_recipe(RECIPE, ["inputs.seen.missing.detect.min_std=1000"])
    with pytest.raises(ModelError) as caught:
        stand_ins_of(recipe, tmp_path)
    assert "no calibration sample holds 'seen'" in caught.value.message


def test_what_only_the_branch_itself_reads_needs_no_size_of_its_own(tmp_path):
    """A sound of any length: its frames are pooled inside its own branch, and only the pooled has a stand-in."""
    (tmp_path / "model.py").write_text(
        "from torch import nn\n\n\nclass Frames(nn.Module):\n    def forward(self, sound):\n"
        "        return sound[:, ::2]\n\n\nclass Pool(nn.Module):\n    def forward(self, frames):\n"
        "        return frames.mean(1, keepdim=True)\n\n\nclass Head(nn.Module):\n"
        "    def forward(self, pooled, seen):\n        return pooled + seen\n\n\ndef build():\n"
        "    return nn.ModuleDict({'frames': Frames(), 'pool': Pool(), 'head': Head()})\n"
    )
    (tmp_path / "data.py").write_text(
        "import numpy as np\n\n\ndef sounds():\n    for length in (4, 6, 8):\n"
        "        yield {'sound': np.full(length, length, 'f'), 'seen': np.full(1, length, 'f')}\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        """
schema_version: 1
name: sounds
target: cpu
model: {factory: model.py:build}
data: {calibration: data.py:sounds, evaluation: data.py:sounds}
sizes: {samples: {min: 4, max: 8}}
inputs:
  sound: {dtype: FP32, shape: [samples], optional: true, missing: {strategy: mean}}
  seen: {dtype: FP32, shape: [1]}
components:
  frames: {module: frames, inputs: {sound: sound}, outputs: {frames: frames}}
  pool: {module: pool, inputs: {frames: frames}, outputs: {pooled: pooled}}
  head: {module: head, inputs: {pooled: pooled, seen: seen}, outputs: {answer: answer}}
outputs: {answer: {}}
gates: [{method: parity, min_cosine: 0.9}]
"""
    )
    found = read_stand_ins(stand_ins_of(load_recipe(tmp_path / "recipe.yaml"), tmp_path).artifacts[STAND_INS])
    assert {name: stand_in.tolist() for name, stand_in in found.items()} == {"pooled": [6.0]}


def test_evaluation_samples_may_lack_what_requests_may_lack(task, tmp_path):
    evaluated = recorded_set(task.recipe, "evaluation", tmp_path)
    feeds = evaluated.feeds()
    assert [name for name in feeds if feeds[name][94] is None] == ["felt"]
    held = Modalities(task.recipe, {}).held(feeds)
    assert held[94].tolist() == [True, True, False]
    assert held[95].tolist() == [False, True, True]
    assert held[:94].all()
    assert set(feeds.take(np.array([94]))) == {"seen", "heard"}


def test_calibration_samples_are_whole(tmp_path):
    recipe = load_recipe(RECIPE, ["data.calibration=data.py:evaluation"])
    with pytest.raises(DataError) as caught:
        set_artifact(recipe, "calibration", tmp_path)
    assert "sample 94 has no input 'felt'" in caught.value.message


MEDIA = Path(__file__).parents[2] / "media_recipe"


@pytest.fixture
def media() -> Recipe:
    return load_recipe(MEDIA / "optional.yaml")


def as_feed(sample: dict[str, object]) -> dict[str, np.ndarray]:
    found = {name: as_strings(content) for name, content in sample.items()}
    return {name: array.reshape(1) for name, array in found.items() if array is not None}


def test_what_is_missing_is_not_prepared(media):
    """Left out, or empty: its step makes nothing, and its branch is not run."""
    whole = next(iter(resolve_callable("data.py:samples", MEDIA, error=DataError)(4, 1)))
    prepare, modalities = preparation(media), Modalities(media, {})
    assert prepare is not None
    found = prepare(as_feed({**whole, "clip": b""}))
    assert set(found) == {"image", "ids", "mask", "counts"}
    assert modalities.holds({name: array[None] for name, array in found.items()}).tolist() == [[True, False]]
    found = prepare(as_feed({name: content for name, content in whole.items() if name != "photo"}))
    assert modalities.holds({name: array[None] for name, array in found.items()}).tolist() == [[False, True]]
    assert modalities.skipped(["photo"]) == {"see"}


def test_what_steps_make_tells_whether_a_file_holds_something(media):
    """A black picture, one that is damaged, a silent clip: each counts as missing, and nothing is made of it."""
    data = {
        name: resolve_callable(f"data.py:{name}", MEDIA, error=DataError) for name in ("samples", "black", "silence")
    }
    whole, prepare = next(iter(data["samples"](4, 1))), preparation(media)
    assert prepare is not None
    cut_off = bytes(whole["photo"])[:40]
    for photo, clip, made in (
        (whole["photo"], whole["clip"], {"image", "sound"}), (data["black"](), whole["clip"], {"sound"}),
        (cut_off, whole["clip"], {"sound"}), (whole["photo"], data["silence"](), {"image"}),
    ):  # fmt: skip
        assert set(prepare(as_feed({**whole, "photo": photo, "clip": clip}))) == made | {"ids", "mask", "counts"}
    with pytest.raises(DataError, match="'clip' is cut off"):
        prepare(as_feed({**whole, "clip": bytes(whole["clip"])[:90]}))


def test_training_samples_that_were_prepared_already_are_looked_at_too(media):
    tensors = {"image": np.zeros((2, 16, 16, 3), np.float32), "sound": np.ones((2, 1600), np.float32)}
    tensors["image"][1, 0] = 1
    assert Modalities(media, {}).holds(tensors).tolist() == [[False, True], [True, True]]


def test_only_samples_for_the_gates_may_lack_files(media, tmp_path):
    recorded = set_artifact(media, "evaluation", tmp_path)
    assert recorded.metadata["samples"] == 24
    feeds = SampleSet.open(recorded.path.parent, "").feeds()
    there = Modalities(media, {}).held(feeds)
    assert (~there).sum(axis=0).tolist() == [10, 6]  # black or damaged photos and silent clips among them
    assert [one is None for one in feeds["image"]] == (~there[:, 0]).tolist()  # it was sent, but for six
    assert sum(one is None for one in feeds["photo"]) == 6
    (tmp_path / "calibration").mkdir()
    lacking = load_recipe(MEDIA / "optional.yaml", ["data.calibration=data.py:lacking"])
    with pytest.raises(DataError, match="sample 1 has no input 'photo'"):
        set_artifact(lacking, "calibration", tmp_path / "calibration")


def test_what_nothing_was_answered_for_is_not_postprocessed(media):
    logits = column_of([None, np.array([0.0, 3.0, 1.0], np.float32)])
    embedding = column_of([None, np.ones(8, np.float32)])
    found = postprocessed(media, {"logits": logits, "embedding": embedding})
    assert found["labels"][0] is None and found["labels"][1].tolist() == [b"cat", b"dog"]


def test_a_mask_that_a_step_makes_may_be_constant(media, tmp_path):
    """Of texts that are not filled up the mask is 1 everywhere."""
    recorded = set_artifact(media, "calibration", tmp_path)
    assert recorded.metadata["inputs"]["mask"]["minimum"] == recorded.metadata["inputs"]["mask"]["maximum"] == 1


def test_what_is_sent_is_looked_at_before_a_step_changes_it(tmp_path):
    """The last picture of the set is black, and the one before is of nobody who feels anything."""
    step = "{method: normalise, inputs: {values: seen}, outputs: {values: clear}, mean: [1.0], std: [2.0]}"
    recipe = load_recipe(RECIPE, [f"preprocess={{normalise: {step}}}", "components.eye.inputs={values: clear}"])
    feeds = SampleSet.open(
        set_artifact(recipe, "evaluation", tmp_path).path.parent, "", tuple(recipe.sources())
    ).feeds()
    assert Modalities(recipe, {}).held(feeds)[-3:].tolist() == [[True] * 3, [True, True, False], [False, True, True]]
    black = (
        f"import numpy as np\n\n\ndef black():\n    return [dict.fromkeys({list(recipe.inputs)}, np.zeros(8, 'f'))]\n"
    )
    (tmp_path / "black.py").write_text(black)
    with pytest.raises(DataError, match="sample 0: there is nothing to make 'clear' of"):
        list(stream("black.py:black", root=tmp_path, specs=recipe.input_specs, prepare=preparation(recipe)))

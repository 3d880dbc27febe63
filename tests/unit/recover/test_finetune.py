"""Fine-tuning a damaged component of the tiny recipe, from artifact to artifact."""

import json
from dataclasses import replace

import pytest
import torch
from recorded_sets import training_setup

from mmdeploy import recover
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import DataError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.model.torch_component import ComponentFacts, component_facts, load_component, save_component
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recover import distill, finetune

DATA = """

def _labelled(seed, count):
    import torch
    from model import build

    model = build().eval()
    for feed in _samples(seed, count):
        with torch.inference_mode():
            left, right = (torch.from_numpy(feed[name])[None] for name in ("a", "b"))
            yield feed, int(model.fusion(model.left(left), model.right(right)).argmax())


def training():
    return _labelled(11, 256)


def validation():
    return _labelled(12, 128)
"""


@pytest.fixture
def recipe(tiny_recipe):
    source = tiny_recipe.with_name("data.py")
    source.write_text(source.read_text() + DATA)
    return load_recipe(tiny_recipe, ["data.training=data.py:training", "data.validation=data.py:validation"])


@pytest.fixture
def pruned(recipe, tmp_path) -> Artifact:
    """The left tower with half of its weights set to zero, and an offset that fine-tuning can take back."""
    facts = ComponentFacts("model.py:build", recipe.root, None, "left", ("x",), ("left",))
    before = Artifact("torch", recipe.root / "model.py", "", (), (), "recipe", as_metadata(facts))
    module = load_component(before)
    with torch.no_grad():
        weight = module.project.weight
        weight[weight.abs() < weight.abs().median()] = 0
        module.norm.bias.add_(torch.linspace(-3, 3, 16))
    (tmp_path / "pruned").mkdir()
    return save_component(
        module, before=before, folder=tmp_path / "pruned", produced_by="magnitude",
        zeroed=["project.weight"], metadata={"costs": {"kept": True}},
    )  # fmt: skip


@pytest.fixture
def context(recipe, tmp_path) -> StepContext:
    (tmp_path / "work").mkdir()
    return StepContext(
        component="left", workdir=tmp_path / "work", target=Target("cpu"), encoding=Encoding.INT8_SYMMETRIC,
        max_batch_size=8, seed=0, threads=1, examples=lambda batch: {}, scratch=tmp_path / "scratch",
        training=training_setup(recipe, "left"),
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["task", "distill", "both"])
def test_a_pruned_component_gets_its_accuracy_back_and_keeps_its_zeros(pruned, context, loss):
    options = finetune.Options(epochs=8, learning_rate=4e-2, loss=loss, patience=None)
    artifact = finetune.run(pruned, options, context)
    training = artifact.metadata["training"]
    metrics = [epoch["metric"] for epoch in training["epochs"]]
    assert training["improved"] and max(metrics) > metrics[0] + 0.02
    before, after = load_component(pruned).project.weight, load_component(artifact).project.weight
    assert torch.equal(after == 0, before == 0) and not torch.equal(after, before)
    assert artifact.format == "torch" and artifact.produced_by == "finetune"
    assert component_facts(artifact).sparse_parameters == ("project.weight",) and artifact.metadata["costs"] == {
        "kept": True
    }
    assert Artifact.from_json(artifact.to_json(), artifact.path.parent) == artifact
    json.dumps(training, allow_nan=False)


def test_without_training_data_it_says_what_the_recipe_lacks(pruned, context):
    with pytest.raises(DataError, match=r"left: training needs samples.*data\.training or data\.validation"):
        finetune.run(pruned, finetune.Options(), replace(context, training=None))


def test_the_plan_is_told_what_data_it_reads():
    assert {"finetune": finetune, "distill": distill} == recover.METHODS
    assert finetune.data_needs(finetune.Options()) == {"training", "validation"}

"""Another module in a component's place, trained to answer as the original did, from artifact to artifact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recorded_sets import training_setup
from test_finetune import DATA

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import DataError, ModelError, RecipeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.model.torch_component import ComponentFacts, component_facts, load_component, save_component
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recover import distill
from mmdeploy.training.losses import relation_error

STUDENTS = """
from torch import nn


class Small(nn.Module):
    def __init__(self, wide=6, out=16):
        super().__init__()
        self.first, self.last = nn.Linear(8, wide), nn.Linear(wide, out)

    def forward(self, values):
        return self.last(self.first(values).relu())


def small():
    return Small()


def short():
    return Small(out=15)


def none():
    return "a module"


class Two(Small):
    def forward(self, values, more):
        return values


def two():
    return Two()
"""


@pytest.fixture
def recipe(tiny_recipe):
    source = tiny_recipe.with_name("data.py")
    source.write_text(source.read_text() + DATA)
    tiny_recipe.with_name("students.py").write_text(STUDENTS)
    return load_recipe(tiny_recipe, ["data.training=data.py:training", "data.validation=data.py:validation"])


@pytest.fixture
def original(recipe) -> Artifact:
    facts = ComponentFacts("model.py:build", recipe.root, None, "left", ("values",), ("left",))
    return Artifact("torch", recipe.root / "model.py", "", (), (), "recipe", as_metadata(facts))


@pytest.fixture
def context(recipe, tmp_path) -> StepContext:
    (tmp_path / "work").mkdir()
    return StepContext(
        component="left", workdir=tmp_path / "work", target=Target("cpu"), encoding=Encoding.INT8_SYMMETRIC,
        max_batch_size=8, seed=0, threads=1, examples=lambda batch: {"values": np.ones((batch, 8), np.float32)},
        scratch=tmp_path / "scratch", training=training_setup(recipe, "left"),
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["distill", "both"])
def test_a_student_takes_the_place_and_learns_the_answers(original, context, loss):
    options = distill.Options(student="students.py:small", epochs=12, learning_rate=2e-2, loss=loss, relation_weight=1)
    artifact = distill.run(original, options, context)
    epochs = artifact.metadata["training"]["epochs"]
    assert max(epoch["metric"] for epoch in epochs) > max(0.8, epochs[0]["metric"] + 0.1)
    student = load_component(artifact)
    assert type(student).__name__ == "Small" and not student.training
    assert artifact.metadata["parameters"] == [8 * 16 + 16 + 32, 8 * 6 + 6 + 6 * 16 + 16]
    assert component_facts(artifact).student == "students.py:small"
    assert Artifact.from_json(artifact.to_json(), artifact.path.parent) == artifact


def test_the_student_is_the_same_whenever_it_is_trained(original, context, tmp_path):
    options = distill.Options(student="students.py:small", epochs=1)
    first = distill.run(original, options, context)
    (tmp_path / "again").mkdir()
    torch.rand(3)
    again = distill.run(original, options, replace(context, workdir=tmp_path / "again", scratch=tmp_path / "other"))
    assert first.sha256 == again.sha256


def test_what_later_passes_make_of_a_student_is_loaded_as_one(original, context, tmp_path):
    trained = distill.run(original, distill.Options(student="students.py:small", epochs=1), context)
    module = load_component(trained)
    with torch.no_grad():
        module.first.weight = torch.nn.Parameter(module.first.weight[:4].clone())
        module.first.bias = torch.nn.Parameter(module.first.bias[:4].clone())
        module.last.weight = torch.nn.Parameter(module.last.weight[:, :4].clone())
    module.first.out_features = module.last.in_features = 4
    (tmp_path / "cut").mkdir()
    cut = save_component(module, before=trained, folder=tmp_path / "cut", produced_by="structured")
    values = torch.randn(3, 8)
    assert torch.equal(load_component(cut)(values), module(values))
    assert component_facts(cut).resized == {"first": {"out_features": 4}, "last": {"in_features": 4}}


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ("students.py:short", r"gives 'left' as float32 \[2, 15\] for 2 samples, the original as float32 \[2, 16\]"),
        ("students.py:two", "students.py:two has another interface than the original: .*more"),
        ("students.py:none", "the factory students.py:none returned a str, expected a torch.nn.Module"),
        ("students.py:nobody", "nobody"),
    ],
)
def test_a_student_that_cannot_take_the_place_is_refused(original, context, student, told):
    with pytest.raises(ModelError, match=told):
        distill.run(original, distill.Options(student=student), context)
    assert not list(context.workdir.iterdir())


def test_without_training_data_it_says_what_the_recipe_lacks(original, context):
    with pytest.raises(DataError, match="left: training needs samples"):
        distill.run(original, distill.Options(student="students.py:small"), replace(context, training=None))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("recover={method: distill}", "missing; it must be given"),
        ("recover={method: distill, student: nobody.py:small}", "no such file: 'nobody.py'"),
        ("recover={method: distill, student: small}", "a callable, as path.py:callable"),
    ],
)
def test_a_recipe_with_no_right_student_is_refused(recipe, section, told):
    trained = ["data.training=data.py:training", "data.validation=data.py:validation"]
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe.root / "recipe.yaml", [*trained, f"components.left.{section}"])
    assert any(told in problem.message for problem in refused.value.problems)


def test_what_is_replaced_is_not_pruned_before(recipe):
    sections = ["recover={method: distill, student: students.py:small}", "prune={method: structured, ratio: 0.5}"]
    given = ["data.training=data.py:training", "data.validation=data.py:validation"]
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe.root / "recipe.yaml", [*given, *(f"components.left.{one}" for one in sections)])
    assert "takes the place of the module that this prunes" in str(refused.value)


def test_relations_are_those_of_cosines_between_samples():
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 3, generator=random), torch.randn(5, 2, 4, generator=random)
    wanted = 0.0
    for one in range(5):
        for other in range(5):
            cosines = [
                float(torch.cosine_similarity(each[one].flatten(), each[other].flatten(), dim=0))
                for each in (student, teacher)
            ]
            wanted += (cosines[0] - cosines[1]) ** 2 / 25
    assert float(relation_error(student, teacher)) == pytest.approx(wanted, rel=1e-5)
    assert float(relation_error(student, student * 3)) == pytest.approx(0, abs=1e-12)
    assert float(relation_error(student[:1], teacher[:1])) == pytest.approx(0, abs=1e-12)


def test_the_step_of_a_student_is_made_again_when_its_code_changes(recipe):
    given = [
        "data.training=data.py:training", "data.validation=data.py:validation",
        "components.left.recover={method: distill, student: students.py:small}",
    ]  # fmt: skip

    def keys() -> dict[str, str]:
        loaded = load_recipe(recipe.root / "recipe.yaml", given)
        made = make_plan(loaded, take_fingerprints(loaded), contents=lambda key, first: "recorded")
        return {step.id: step.key for step in made.steps}

    before = keys()
    (recipe.root / "students.py").write_text(STUDENTS.replace("relu()", "sigmoid()"))
    after = keys()
    changed = {name for name, key in before.items() if key != after[name]}
    assert {"left/recover", "left/export"} <= changed and not {one for one in changed if one.startswith("right/")}
    assert "left/original" not in changed

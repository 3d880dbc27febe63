"""The variants of spoken_digits: valid recipes of one and the same model, told apart by what they do to it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmdeploy
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import DataError
from mmdeploy.model.sources import resolve_callable
from mmdeploy.worker.media import preparation

FOLDER = Path(__file__).parents[2] / "recipes" / "spoken_digits"
VARIANTS = sorted((FOLDER / "variants").glob("*.yaml"))
#: Takes files, so that its inputs and what its encoders read are named otherwise.
MEDIA = FOLDER / "variants" / "media.yaml"
#: Has a component more, which answers first.
CASCADE = FOLDER / "variants" / "cascade.yaml"
OF_TENSORS = [path for path in VARIANTS if path not in (MEDIA, CASCADE)]
BASE = mmdeploy.load_recipe(FOLDER / "recipe.yaml")
SECTIONS = {"prune", "recover", "quantize", "engine"}


def passes(recipe: Any, component: str) -> list[str]:
    part = recipe.components[component]
    return [method_of(section) for section in (part.prune, part.recover, part.quantize) if section is not None]


@pytest.mark.parametrize(
    ("variant", "wanted"),
    [
        ("qat", ["qat"]),
        ("pruned", ["structured", "finetune", "static"]),
        ("sparse", ["n_m", "qat"]),
        ("auto", ["auto"]),
        ("missing", ["static"]),
        ("media", ["static"]),
    ],
)
def test_each_does_what_its_name_says(variant: str, wanted: list[str]) -> None:
    recipe = mmdeploy.load_recipe(FOLDER / "variants" / f"{variant}.yaml")
    assert recipe.name == f"spoken_digits_{variant}"
    assert all(passes(recipe, name) == wanted for name in recipe.components)
    assert all((recipe.automatic_engine(name) is not None) == (variant == "auto") for name in recipe.components)


@pytest.mark.parametrize("path", OF_TENSORS, ids=lambda path: path.stem)
def test_all_else_is_as_in_the_recipe(path: Path) -> None:
    recipe = mmdeploy.load_recipe(path)
    assert recipe.root == FOLDER
    assert recipe.origin.base is not None
    assert recipe.origin.base.samefile(FOLDER / "recipe.yaml")
    assert recipe.model == BASE.model
    assert {name: spec.model_dump(exclude={"optional", "missing"}) for name, spec in recipe.inputs.items()} == {
        name: spec.model_dump(exclude={"optional", "missing"}) for name, spec in BASE.inputs.items()
    }
    assert all(spec.optional == (path.stem == "missing") for spec in recipe.inputs.values())
    assert {name: part.model_dump(exclude=SECTIONS) for name, part in recipe.components.items()} == {
        name: part.model_dump(exclude=SECTIONS) for name, part in BASE.components.items()
    }
    accuracy = next(gate for gate in BASE.gates if method_of(gate) == "accuracy")
    wanted = accuracy.model_copy(update={"max_drop": 0.015}) if path.stem == "pruned" else accuracy
    assert wanted in recipe.gates, "all are held to the same accuracy, what is smallest to half a point less"


def test_the_cascade_has_one_component_more_and_the_same_trained_network() -> None:
    recipe = mmdeploy.load_recipe(CASCADE)
    shared = {name: part.model_dump() for name, part in recipe.components.items() if name != "early_head"}
    assert shared == {name: part.model_dump() for name, part in BASE.components.items()}
    model = resolve_callable("early.py:build", FOLDER, error=DataError)()
    trained = load_file(FOLDER / "weights.safetensors")
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("early_head.")}
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[name], trained[name].float()) for name in trained)


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_the_spectrogram_stays_in_float(path: Path) -> None:
    quantize = mmdeploy.load_recipe(path).components["audio_encoder"].quantize
    assert quantize is not None
    assert quantize.model_dump()["exclude"] == ("spectrogram/*",)


def test_files_become_what_the_encoders_of_the_recipe_read() -> None:
    recipe = mmdeploy.load_recipe(MEDIA)
    assert {spec.dtype for spec in recipe.inputs.values()} == {"BYTES"}
    made = {spec.name: (spec.dtype, spec.shape) for spec in recipe.source_specs}
    assert made == {"pixels": ("UINT8", (8, 8)), "waveform": ("FP32", (4000,))}
    prepare = preparation(recipe)
    assert prepare is not None
    data = [
        resolve_callable(f"data.py:{name}", FOLDER, error=DataError) for name in ("calibration", "calibration_files")
    ]
    for (sent, label), (files, same) in itertools.islice(zip(*(make() for make in data), strict=True), 8):
        found = prepare({name: np.array([content], dtype=object) for name, content in files.items()})
        np.testing.assert_array_equal(found["pixels"], sent["image"])
        np.testing.assert_allclose(found["waveform"], sent["audio"], atol=2**-15)
        assert label == same

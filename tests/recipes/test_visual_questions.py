"""The visual_questions recipe: questions are answered as the published rules say, and its weights reach the aim."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "visual_questions"


@pytest.fixture(scope="module")
def data() -> Any:
    spec = importlib.util.spec_from_file_location("visual_questions_data", FOLDER / "data.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answered_by_rule(centres: np.ndarray, circles: np.ndarray, question: str, colours: list[str]) -> str:
    """Answer one question by looking at the scene as a person does, one object after the other."""
    asked = next(number for number, colour in enumerate(colours) if f" {colour} " in question)
    shapes = ["circle" if circle else "square" for circle in circles]
    others = [number for number in range(len(colours)) if number != asked]
    away = {number: float(np.hypot(*(centres[number] - centres[asked]))) for number in others}
    if "near" in question or "closest" in question:
        return shapes[min(others, key=lambda number: away[number])]
    if "furthest" in question or "farthest" in question:
        return shapes[max(others, key=lambda number: away[number])]
    if "how many" in question or "number of" in question:
        return str(sum(shapes[number] == shapes[asked] for number in others))
    if "left" in question:
        return "yes" if centres[asked][0] < 37.5 else "no"
    if "top" in question or "upper" in question:
        return "yes" if centres[asked][1] < 37.5 else "no"
    return shapes[asked]


def test_every_question_is_answered_as_somebody_would_who_looks(data: Any) -> None:
    random = np.random.RandomState(0)
    centres, circles = data.placed(40, random), random.randint(2, size=(40, 6)).astype(bool)
    found = data.answers(centres, circles)
    away = ((centres[:, :, None] - centres[:, None]) ** 2).sum(-1) + 1000 * np.eye(6, dtype=int)
    assert away.min() >= 100 and centres.min() >= 5 and centres.max() <= 69
    colours = list(data.COLOURS)
    for scene in range(40):
        for number, question in enumerate(data.sentences()):
            kind, rest = divmod(number, data.QUESTIONS_OF_A_KIND)
            right = data.ANSWERS[found[scene, kind, rest // len(data.WORDINGS[0])]]
            assert right == answered_by_rule(centres[scene], circles[scene], question, colours), question


def test_what_is_drawn_is_what_is_asked_about(data: Any) -> None:
    centres = np.array([[[10, 10], [30, 10], [50, 10], [10, 40], [30, 40], [50, 60]]])
    image = data.drawn(centres, np.array([[False, True, False, True, False, True]]))[0]
    for (x, y), colour, circle in zip(centres[0], data.COLOURS.values(), [0, 1, 0, 1, 0, 1], strict=True):
        assert tuple(image[y, x]) == colour
        assert (tuple(image[y - 5, x - 5]) == colour) == (not circle)
    assert (image == 255).all(axis=-1).sum() == 75 * 75 - 3 * 121 - 3 * 81


def test_splits_and_epochs_share_no_image(data: Any) -> None:
    drawn = [data.split(name).images for name in data.SPLITS] + [data.scenes(200, seed) for seed in (100_000, 1000)]
    images = np.concatenate([getattr(one, "images", one) for one in drawn])
    assert len({image.tobytes() for image in images}) == len(images)
    again = data.split("test")
    assert all(np.array_equal(one, other) for one, other in zip(again, data.split("test"), strict=True))
    assert [(again.questions < 54).sum(), again.questions.shape] == [2000, (200, 20)]

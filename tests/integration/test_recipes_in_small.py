"""The recipes on real tasks, built in small forms and asked as clients ask them."""

from __future__ import annotations

import importlib.util
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_recipe import built, served

from mmdeploy.triton.client import HttpRunner

pytestmark = [pytest.mark.triton, pytest.mark.slow]
RECIPES = Path(__file__).parents[2] / "recipes"


def data_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_data", RECIPES / name / "data.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(running: Any, name: str, feeds: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Ask for each sample over gRPC and over HTTP, which must agree; return the outputs of all."""
    runners = [running.runner(name), HttpRunner(running.http_url, name)]
    found = []
    for feed in feeds:
        given = {
            key: np.array([[value.encode()]], dtype=object) if isinstance(value, str) else value[None]
            for key, value in feed.items()
        }
        over_grpc, over_http = (runner.infer(given) for runner in runners)
        for output, array in over_grpc.items():
            np.testing.assert_allclose(array, over_http[output], atol=1e-5)
        found.append(over_grpc)
    for runner in runners:
        runner.close()
    return {output: np.concatenate([one[output] for one in found]) for output in found[0]}


def test_questions_about_pictures(tmp_path: Path) -> None:
    outcome = built(RECIPES / "visual_questions" / "variants" / "small.yaml", tmp_path)
    feeds, labels = zip(*islice(data_of("visual_questions").evaluation(), 0, 200, 10), strict=True)
    with served(outcome, tmp_path) as running:
        logits = asked(running, "visual_questions_small", list(feeds))["logits"]
    assert np.mean(logits.argmax(axis=1) == [label["answer"] for label in labels]) >= 0.8


def test_scenes_where_the_text_tower_is_not_installed(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    outcome = built(Path(__file__).parents[1] / "scene_recipe" / "recipe.yaml", tmp_path)
    feeds, _ = zip(*data_of("scene_search").a_few(), strict=True)
    with served(outcome, tmp_path) as running:
        found = asked(running, "scene_search_tiny", list(feeds[:8]))
    for name in ("image_embedding", "text_embedding"):
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1.0, atol=1e-4)


def test_pictures_against_lists_of_texts_with_an_adapter(tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    folder = RECIPES / "clip_vit_b32"
    in_float = ("components.image.quantize=null", "components.text.quantize=null", "gates=[]")
    in_float += ("data={evaluation: ../data.py:a_few}",)
    outcome = built(folder / "variants" / "adapted.yaml", tmp_path, in_float)
    feeds, labels = zip(*data_of("clip_vit_b32").a_few(), strict=True)
    some = [
        {"image": feed["image"], "labels": feed["labels"][:count]} for feed, count in zip(feeds, (1, 3), strict=False)
    ]
    with served(outcome, tmp_path) as running:
        answers = [asked_in_bytes(running, "clip_vit_b32_adapted", feed) for feed in (*some, *feeds)]
    model = peft.PeftModel.from_pretrained(
        transformers.CLIPModel.from_pretrained(folder / "small", dtype="float32"), folder / "lora"
    ).eval()
    for feed, answer in zip((*some, *feeds[:4]), answers, strict=False):
        for name, array in by_transformers(model, folder / "small", feed).items():
            np.testing.assert_allclose(answer[name], array, atol=1e-3, err_msg=name)
    right = [answer["logits"].argmax() == label for answer, label in zip(answers[len(some) :], labels, strict=True)]
    assert np.mean(right) >= 0.8


def asked_in_bytes(running: Any, name: str, feed: dict[str, Any]) -> dict[str, np.ndarray]:
    runner = running.runner(name)
    labels = np.array([[label.encode() for label in feed["labels"]]], dtype=object)
    answer: dict[str, np.ndarray] = runner.infer({"image": np.array([[feed["image"]]], dtype=object), "labels": labels})
    runner.close()
    return answer


def by_transformers(model: Any, folder: Path, feed: dict[str, Any]) -> dict[str, np.ndarray]:
    import io

    import torch
    from PIL import Image
    from transformers import CLIPTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    picture = Image.open(io.BytesIO(feed["image"])).convert("RGB")
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")
    texts = CLIPTokenizerFast.from_pretrained(folder)(feed["labels"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = model(**pixels, **texts)
    return {
        "logits": found.logits_per_image.numpy(),
        "image_embedding": found.image_embeds.numpy(),
        "text_embeddings": found.text_embeds.numpy()[None],
    }

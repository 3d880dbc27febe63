"""Inputs that a model, or its evaluation samples, may lack: what init proposes to stand in for them."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdeploy.core.errors import DataError, ModelError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.scaffold.files import write_files
from mmdeploy.scaffold.own_model import Found, Sources, find, texts_of

MODEL = """
import torch
from torch import nn


def tower(size):
    return nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 8))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(16, 3)

    def forward(self, seen, heard):
        return self.classify(torch.cat([seen, heard], 1))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.look, self.hear, self.head = tower(6), tower(4), Head()
        self.decoy, self.silence = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(1, 8))

    def forward(self, image, audio=None):
        seen = self.look(image)
        FORWARD


def build():
    torch.manual_seed(0)
    return Both()
"""
DATA = """
import numpy as np


def whole():
    random = np.random.default_rng(0)
    for index in range(8):
        yield {"image": random.random(6, np.float32), "audio": random.random(4, np.float32)}, index % 3


def some():
    for index, (sample, label) in enumerate(whole()):
        yield ({"image": sample["image"]} if index % 2 else sample), label
"""
LEARNED = "heard = self.hear(audio) if audio is not None else self.silence.expand(len(seen), -1)"
ZEROS = "heard = self.hear(audio) if audio is not None else torch.zeros_like(seen)"
OTHER = "heard = self.hear(audio) if audio is not None else seen * 2"


def found_in(
    folder: Path, forward: str, *, evaluation: str | None = "some", data: str = "whole", samples: str = DATA
) -> Found:
    forward = textwrap.indent(textwrap.dedent(forward), " " * 8).strip()
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(MODEL.replace("FORWARD", forward))
    (folder / "data.py").write_text(samples)
    place = f"{folder / 'data.py'}:"
    return find(
        Sources(
            f"{folder / 'model.py'}:build",
            place + data,
            evaluation=evaluation and place + evaluation,
            output=folder / "recipe.yaml",
        )
    )


def recipe_of(found: Found) -> tuple[dict[str, Any], str]:
    write_files(texts_of(found, found.choose()), force=True)
    load_recipe(found.sources.recipe)
    text = found.sources.recipe.read_text()
    fields: dict[str, Any] = yaml.safe_load(text)
    return fields, text


def words(text: str) -> str:
    """Return what comments say, without their breaks."""
    return " ".join(text.replace("#", " ").split())


@pytest.mark.parametrize(
    ("forward", "missing"),
    [
        (LEARNED, {"strategy": "learned", "parameter": "silence"}),
        (ZEROS, {"strategy": "zeros"}),
        (OTHER, {"strategy": "mean"}),
    ],
)
def test_what_stands_in_is_tried_on_the_model(tmp_path: Path, forward: str, missing: dict[str, str]) -> None:
    fields, text = recipe_of(found_in(tmp_path, f"{forward}\nreturn self.head(seen, heard)"))
    assert fields["inputs"]["audio"]["optional"] is True
    assert fields["inputs"]["audio"]["missing"] == missing
    assert "optional" not in fields["inputs"]["image"]
    assert "4 evaluation samples lack audio" in words(text)
    assert ("as the model answers without it" in words(text)) == (missing["strategy"] != "mean")


def test_it_is_found_where_the_fusion_is_written_out_by_init(tmp_path: Path) -> None:
    fields, _ = recipe_of(found_in(tmp_path, f"{LEARNED}\nreturn self.head.classify(torch.cat([seen, heard], 1))"))
    assert fields["inputs"]["audio"]["missing"] == {"strategy": "learned", "parameter": "silence"}


def test_without_samples_that_lack_it_the_line_is_a_comment_to_be_taken(tmp_path: Path) -> None:
    found = found_in(tmp_path, f"{ZEROS}\nreturn self.head(seen, heard)", evaluation=None)
    fields, text = recipe_of(found)
    assert "optional" not in fields["inputs"]["audio"]
    lines = text.splitlines()
    proposed = next(line for line in lines if line.startswith("  # audio: "))
    taken = [line for line in lines if not line.startswith("  audio: ")]
    taken[taken.index(proposed)] = proposed.replace("# ", "", 1)
    found.sources.recipe.write_text("\n".join(taken) + "\n")
    recipe = load_recipe(found.sources.recipe)
    assert recipe.inputs["audio"].optional


def test_an_input_that_the_head_reads_beside_others_stays_one_that_is_needed(tmp_path: Path) -> None:
    forward = "return self.head(seen, torch.zeros_like(seen) if audio is None else torch.cat([audio, audio], 1))"
    found = found_in(tmp_path, forward, evaluation=None)
    _, text = recipe_of(found)
    assert "optional" not in text


def test_data_that_lacks_an_input_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 1 has image, the ones before image, audio") as refused:
        found_in(tmp_path, f"{ZEROS}\nreturn self.head(seen, heard)", data="some")
    assert "--evaluation" in str(refused.value.hint)


def test_samples_with_nan_and_answers_of_nan_are_refused(tmp_path: Path) -> None:
    samples = DATA.replace("random.random(4, np.float32)}", "np.full(4, np.nan, np.float32)}")
    with pytest.raises(DataError, match="sample 0, input 'audio' holds NaN"):
        found_in(tmp_path, f"{ZEROS}\nreturn self.head(seen, heard)", samples=samples)
    with pytest.raises(ModelError, match="output 'output' is NaN"):
        found_in(tmp_path, f"{ZEROS}\nreturn self.head(seen, heard) * float('nan')")


def test_samples_that_may_be_batches_are_told_of(tmp_path: Path) -> None:
    forward = "return self.look(image) + self.hear(audio)"
    samples = re.sub(r"random\.random\((\d),", r"random.random((1, \1),", DATA)
    batched = found_in(tmp_path / "batched", forward, evaluation=None, samples=samples)
    assert "begin with an axis of 1" in words(recipe_of(batched)[1])
    single = found_in(tmp_path / "single", forward, evaluation=None)
    assert "may be batches" not in words(recipe_of(single)[1])

"""Inputs that a model, or its evaluation samples, may lack: what init proposes to stand in for them."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdeploy.core.errors import DataError, ModelError
from mmdeploy.data.samples import unchecked
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
LACKS_FIRST = """

class Numbered:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        sample, label = [*whole()][index % 8]
        return ({"image": sample["image"]} if index % 4 in (0, 3) else sample), label
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
    assert "4 samples lack audio" in words(text)
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


def sets_of(found: Found) -> tuple[dict[str, Any], str, list[Any], list[Any]]:
    """Write the recipe; return what it says, its text, and the samples of its two sets as a build takes them."""
    fields, text = recipe_of(found)
    recipe = load_recipe(found.sources.recipe)
    references = (recipe.data.calibration, recipe.data.evaluation)
    calibrate, judge = ([*unchecked(one, root=recipe.root)] for one in references if one is not None)
    return fields, text, calibrate, judge


def names_of(samples: list[Any]) -> list[str]:
    return [" ".join(sorted(feed)) for feed, _ in samples]


def test_data_of_which_some_samples_lack_an_input_is_shared_out(tmp_path: Path) -> None:
    """The first sample lacks it; the samples come by number, from what would go on for ever as an iterable."""
    samples = DATA + LACKS_FIRST
    found = found_in(
        tmp_path, f"{LEARNED}\nreturn self.head(seen, heard)", data="Numbered", evaluation=None, samples=samples
    )
    fields, text, calibrate, judge = sets_of(found)
    assert fields["inputs"]["audio"]["missing"] == {"strategy": "learned", "parameter": "silence"}
    assert "4 samples lack audio" in words(text)
    assert fields["components"]["look"]["quantize"]["samples"] == 2
    assert names_of(calibrate) == ["audio image"] * 2
    assert names_of(judge) == ["image", "audio image", "image", "image", "audio image", "image"]
    assert sorted(label for _, label in calibrate + judge) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_what_nothing_can_stand_in_for_is_in_every_sample_of_either_set(tmp_path: Path) -> None:
    forward = "return self.head(seen, torch.zeros_like(seen) if audio is None else torch.cat([audio, audio], 1))"
    found = found_in(tmp_path, forward, data="some", evaluation=None)
    fields, text, calibrate, judge = sets_of(found)
    assert "optional" not in fields["inputs"]["audio"]
    assert "4 of 8 samples lack audio: init_data.py leaves them out" in words(text)
    assert names_of(calibrate) == names_of(judge) == ["audio image"] * 2
    assert {feed["image"].tobytes() for feed, _ in calibrate}.isdisjoint(feed["image"].tobytes() for feed, _ in judge)


def test_samples_that_calibrate_are_whole_where_held_out_ones_are_given_too(tmp_path: Path) -> None:
    found = found_in(tmp_path, f"{ZEROS}\nreturn self.head(seen, heard)", data="some", evaluation="some")
    fields, _, calibrate, judge = sets_of(found)
    assert fields["inputs"]["audio"]["optional"] is True
    assert names_of(calibrate) == ["audio image"] * 4
    assert names_of(judge) == ["audio image", "image"] * 4


def test_samples_none_of_which_is_whole_and_ones_that_cannot_be_shared_out_are_refused(tmp_path: Path) -> None:
    forward = f"{ZEROS}\nreturn self.head(seen, heard)"
    apart = DATA + "\n\ndef apart():\n    yield {'image': np.zeros(6, np.float32)}\n    yield {'audio': np.zeros(4)}\n"
    with pytest.raises(DataError, match="no sample has all of image, audio: 1 with image; 1 with audio"):
        found_in(tmp_path, forward, data="apart", samples=apart, evaluation=None)
    new = apart.replace("'audio'", "'voice'")
    with pytest.raises(DataError, match="sample 1 has voice, which no sample of --data has"):
        found_in(tmp_path, forward, data="whole", evaluation="apart", samples=new)
    found = found_in(tmp_path, forward, data="some", evaluation=None)
    (tmp_path / "my-data.py").write_text(DATA)
    elsewhere = find(replace(found.sources, data=f"{tmp_path / 'my-data.py'}:some"))
    with pytest.raises(DataError, match=r"of 8 samples of my-data\.py:some, 4 lack audio") as refused:
        elsewhere.choose()
    assert "--evaluation" in str(refused.value.hint)


def test_samples_with_nan_and_answers_of_nan_are_refused(tmp_path: Path) -> None:
    for value, told in (("np.nan", "NaN"), ("-np.inf", "an infinite value")):
        samples = DATA.replace("random.random(4, np.float32)}", f"np.full(4, {value}, np.float32)}}")
        with pytest.raises(DataError, match=f"sample 0, input 'audio' holds {told}"):
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

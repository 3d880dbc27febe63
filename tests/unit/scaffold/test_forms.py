"""Forms that do not deploy, in small models: each is named by its line, and the exporter agrees."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdeploy.core.errors import ModelError
from mmdeploy.scaffold.forms import forms_of
from mmdeploy.scaffold.seen import look_at

HEAD = """import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.register_buffer("mean", torch.zeros(8))
        self.seen = []

    def forward(self, x):
        y = self.first(x)
"""
#: By form: the body of a forward, the number of the line in it that is named, and whether the exporter refuses it.
FORMS = {
    "decision": ("if y.sum() > 100:\n    y = y * 2\nreturn y", 0, True),
    "value": ("return y * float(y[0, 0] * 0 + 2)", 0, None),
    "expert loop": (
        "which = y[:, :3].argmax(1)\nz = torch.zeros_like(y)\nfor index, expert in enumerate(self.experts):\n"
        "    z[which == index] = expert(y[which == index])\nreturn z",
        3, False,
    ),
    "rows by value": ("y = y.clone()\ny[y < 0] = 0\nreturn y", 1, False),
    "row loop": ("return torch.stack([self.experts[0](row) for row in y])", 0, None),
    "chance": ("return F.dropout(y)", 0, None),
    "state": ("self.mean += y.mean(0)\nreturn y + self.mean", 0, None),
    "kept": ("self.last = y\nreturn y", 0, None),
    "three-axis attention": (
        "z = y.reshape(-1, 2, 4)\nreturn F.scaled_dot_product_attention(z, z, z).flatten(1)", 1, True,
    ),
    "mean by scatter": (
        "to = torch.tensor([[0, 0, 1, 1]]).expand(len(y), 4)\n"
        "return torch.zeros(len(y), 2).scatter_reduce(1, to, y[:, :4], 'mean', include_self=False)",
        1, None,
    ),
    "extreme of all": ("return y / (y.amax() * 0 + 1)", 0, True),
    "Fourier transform": ("return torch.fft.rfft(y).abs()", 0, False),
    "no batch axis": ("return y.mean(0)", None, None),
    "batch in the answer": ("return y - y.mean(0)", None, None),
}  # fmt: skip
OTHERS = {
    "rows by a loop over their number": (
        "z = 0\nfor row in range(len(y)):\n    z = z + y[row]\nreturn y + z * 0", "row loop", 2,
    ),
    "a list that grows": ("self.seen.append(1)\nreturn y", "kept", 0),
    "a count that answers follow from": ("self.seen.append(1)\nreturn y * len(self.seen)", "state", 0),
    "one item": ("return y * (y.max().item() * 0 + 1)", "value", 0),
    "while": ("while y.abs().max() > 1e3:\n    y = y / 2\nreturn y", "decision", 0),
    "a while whose rounds depend on the batch": (
        "z = y\nwhile len(z) < 4 and z.sum() < 1e9:\n    z = torch.cat([z, z])\nreturn y", "decision", 1,
    ),
    "attention by keywords": (
        "z = y.reshape(-1, 2, 4)\nreturn F.scaled_dot_product_attention(query=z, key=z, value=z).flatten(1)",
        "three-axis attention", 1,
    ),
    "repeats by keyword": (
        "return y.repeat_interleave(repeats=(y[:, 0] > -1e9).long(), dim=0)", "rows by value", 0,
    ),
    "what only the first call leaves": (
        "if not self.seen:\n    self.seen.append(y[:1] * 0)\nreturn y + self.seen[0]", "kept", 0,
    ),
    "noise": ("return y + torch.randn(8)", "chance", 0),
    "a mask of NumPy's chance": (
        "mask = (np.random.rand(8) > 0.2).astype('float32')\nreturn y * torch.from_numpy(mask)", "chance", 0,
    ),
    "a coin of Python's": ("return y * (1 + random.randint(1, 9))", "chance", 0),
    "a decision by an item": ("if y.sum().item() > 100:\n    y = y * 2\nreturn y", "decision", 0),
    "a decision by a number of a line above": (
        "m = float(y.sum())\nz = y + 1\nif m > 100:\n    z = z * 2\nreturn z", "decision", 0,
    ),
    "a while by a number of a line above": (
        "m = y.sum().item()\nwhile m > 1e9:\n    m = m / 2\nreturn y", "decision", 0,
    ),
    "a number in a tensor whose form is asked": (
        "y = y * y.sum().item()\nif y.ndim > 5 or y is None or len(y) > 99:\n    y = y + 1\nreturn y", "value", 0,
    ),
    "a number beside another's decision": (
        "m, n = y.sum().item(), 3\nk = 2\nif k > 1:\n    y = y + m\nreturn y", "value", 0,
    ),
    "a decision by a float, in one line": ("return y * 2 if float(y.max()) > 100 else y", "decision", 0),
    "rows by nonzero": ("z = y.clone()\nz[(y[:, 0] > 0).nonzero()[:, 0]] = 0\nreturn z", "rows by value", 1),
    "a short-time transform": (
        "w = torch.ones(4)\nreturn torch.stft(y, 4, 2, window=w, return_complex=True).abs().flatten(1)",
        "Fourier transform", 1,
    ),
}  # fmt: skip
FINE = {
    "plain": "return y",
    "assertion": "assert (y.abs() < 1e6).all()\nreturn y",
    "dropout that is off": "return F.dropout(y, training=self.training)",
    "attention": "z = y.reshape(-1, 1, 2, 4)\nreturn F.scaled_dot_product_attention(z, z, z).flatten(1)",
    "where": "return torch.where(y > 0, y, torch.zeros_like(y))",
    "a loop over layers": "for expert in self.experts:\n    y = expert(y)\nreturn y",
    "extreme of a row": "return y / (y.amax(1, keepdim=True).abs() + 1)",
    "many outputs": "return {'one': y, 'two': (y * 2, y * 3)}",
}


def model_of(body: str, folder: Path, name: str) -> tuple[torch.nn.Module, int]:
    """Write a model with a forward, and import it; returns it and the number of the line before the body's first."""
    from mmdeploy.model.torch_model import load_model

    lines = "".join(f"        {line}\n" for line in body.split("\n"))
    (folder / f"{name}.py").write_text(f"{HEAD}{lines}\n\ndef build():\n    return Model()\n")
    return load_model(f"{name}.py:build", root=folder, weights=None), HEAD.count("\n") + 1


def samples(*lengths: int):
    random = np.random.default_rng(0)
    return [({"x": random.standard_normal(length, np.float32)}, None) for length in lengths or (8,) * 4]


def found_in(body: str, folder: Path, name: str) -> dict[str, str]:
    model, _ = model_of(body, folder, name)
    found = forms_of(model, look_at(samples(), "samples"), root=folder)
    return {one.name: one.what for one in found}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_named_by_its_line(form: str, tmp_path: Path) -> None:
    body, number, refused = FORMS[form]
    found = found_in(body, tmp_path, "named")
    assert form in found
    if number is not None:
        line = body.split("\n")[number].strip()
        assert found[form].startswith(f"named.py:{HEAD.count(chr(10)) + 1 + number}: {line}\n")
    if refused is not None:
        assert exported(model_of(body, tmp_path, "asked")[0]) is not refused


@pytest.mark.parametrize("name", OTHERS)
def test_another_writing_of_a_form_is_named_too(name: str, tmp_path: Path) -> None:
    body, form, number = OTHERS[name]
    found = found_in(body, tmp_path, "other")
    assert found[form].startswith(f"other.py:{HEAD.count(chr(10)) + 1 + number}: ")


#: What is told of a body, all of it.
WHOLE = {
    "a line that runs by chance is no loop": (
        "if random.random() > 0.5:\n    y = y * 0.5\nreturn y", {"chance"},
    ),
    "lines that run by what was kept are no loop": (
        "if self.seen:\n    y = y + self.seen[-1].mean()\nself.seen.append(y.detach())\nreturn y", {"state"},
    ),
    "a mask that is drawn anew": (
        "mask = np.random.default_rng().random(8)\nreturn y * torch.from_numpy(mask).float()", {"chance"},
    ),
    "more lines with each call are no loop": ("self.seen.append(y.mean())\nreturn y + sum(self.seen)", {"state"}),
    "state beside chance": ("self.mean += y.mean(0)\nreturn F.dropout(y + self.mean)", {"chance", "state"}),
    "what is kept beside chance": ("self.last = y\nreturn F.dropout(y)", {"chance", "kept"}),
    "numbers that are the same each time": (
        "mask = np.random.default_rng(0).random(8)\nreturn y * torch.from_numpy(mask).float()", set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_all_that_is_said_is_true(name: str, tmp_path: Path) -> None:
    body, told = WHOLE[name]
    assert set(found_in(body, tmp_path, "whole")) == told


@pytest.mark.parametrize("name", FINE)
def test_nothing_is_said_of_what_deploys(name: str, tmp_path: Path) -> None:
    assert found_in(FINE[name], tmp_path, "fine") == {}


def test_a_loop_over_the_length_is_found_by_samples_of_two_lengths(tmp_path: Path) -> None:
    source = HEAD.replace(
        "def forward(self, x):\n        y = self.first(x)\n", "def forward(self, x):\n        y = 0\n"
    )
    (tmp_path / "steps.py").write_text(
        f"{source}        for step in range(x.shape[1]):\n            y = y * 0.5 + x[:, step]\n        return y\n"
        "\n\ndef build():\n    return Model()\n"
    )
    from mmdeploy.model.torch_model import load_model

    model = load_model("steps.py:build", root=tmp_path, weights=None)
    found = forms_of(model, look_at(samples(4, 4, 6, 6), "samples"), root=tmp_path)
    assert [(one.name, one.state) for one in found] == [("length loop", "missing")]
    assert "y = y * 0.5 + x[:, step]" in found[0].what


def test_lines_that_run_by_what_was_kept_are_no_loop_over_the_length(tmp_path: Path) -> None:
    model, _ = model_of("self.seen.append(x.mean())\nreturn x + sum(self.seen)", tmp_path, "grows")
    model.first = torch.nn.Identity()
    found = forms_of(model, look_at(samples(4, 4, 6, 6), "samples"), root=tmp_path)
    assert {one.name for one in found} == {"state"}


def test_a_model_that_takes_one_sample_only_is_told_so(tmp_path: Path) -> None:
    model, _ = model_of("return y.reshape(1, 2, 4) if len(y) < 2 else y.reshape(2, 8)", tmp_path, "single")
    with pytest.raises(ModelError, match=r"failed on a batch of 4 samples \(x float32 \[4, 8\]\): in Model, reshape"):
        forms_of(model, look_at(samples(), "samples"), root=tmp_path)


def exported(model: torch.nn.Module) -> bool:
    """Say whether PyTorch's exporter takes a model with a batch of any size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = {0: torch.export.Dim("batch")}
    try:
        torch.onnx.export(model, (torch.randn(3, 8),), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    except Exception:  # noqa: BLE001 - whatever it says
        return False
    return True

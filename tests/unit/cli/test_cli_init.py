"""`mmdeploy init`: what it writes and prints, what it refuses, and what it asks on a terminal."""

import os
import pty
import re
import select
import sys
from pathlib import Path

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.recipe.loader import load_recipe

MODEL = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Sequential(nn.Linear(4, 8)), nn.Sequential(nn.Linear(5, 8))
        self.classify = nn.Linear(16, 3)

    def forward(self, a, b):
        return self.classify(torch.cat([self.left(a), self.right(b)], 1))


def build():
    return Two()


def fails():
    raise FileNotFoundError("no checkpoint")
"""
WITH_OTHER_LETTERS = """
import torch
from torch import nn


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(13, 3)

    def forward(self, size, b):
        return self.classify(torch.cat([size, b], 1))


class Size(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, value):
        return self.layer(value).relu()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.größe, self.head = Size(), Head()

    def forward(self, a, b):
        return self.head(self.größe(a), b)


def build():
    return Two()
"""
DATA = """
import numpy as np


def samples():
    random = np.random.default_rng(0)
    for index in range(20):
        yield {"a": random.random(4, np.float32), "b": random.random(5, np.float32)}, index % 3
"""
COMMAND = ("init", "model.py:build", "--data", "data.py:samples")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its data, to stand in."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_script_gets_a_recipe_that_validates_and_the_next_three_commands(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(commands, [*COMMAND, "--name", "mine", "--target", "cuda", "--yes"]) == 0
    shown = capsys.readouterr().out
    files = ["init_data.py", "init_model.py", "recipe.schema.json", "recipe.yaml"]
    assert re.findall(r"written: (.*)", shown) == files
    assert shown.endswith(
        "next:\n  mmdeploy validate recipe.yaml\n  mmdeploy build recipe.yaml\n  mmdeploy serve model_repository\n"
    )
    assert all(len(line) <= 100 for line in shown.splitlines())
    recipe = load_recipe(inside / "recipe.yaml")
    assert (recipe.name, recipe.target) == ("mine", "cuda")
    assert (inside / "recipe.yaml").read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert sorted(path.name for path in inside.iterdir() if path.is_file()) == sorted([*files, "data.py", "model.py"])


def test_what_is_there_stays_unless_it_is_said_otherwise(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "recipe.yaml").write_text("mine")
    assert run(commands, [*COMMAND]) == 2
    assert "recipe.yaml is there already" in capsys.readouterr().err
    assert (inside / "recipe.yaml").read_text() == "mine"
    (inside / "init_model.py").write_text("changed = True")
    assert run(commands, [*COMMAND, "--output", "other.yaml"]) == 2
    assert "init_model.py is there already" in capsys.readouterr().err
    assert not (inside / "other.yaml").exists()
    assert run(commands, [*COMMAND, "--force"]) == 0
    load_recipe(inside / "recipe.yaml")
    assert run(commands, [*COMMAND, "--output", "elsewhere/other.yaml"]) == 0
    assert load_recipe(inside / "elsewhere" / "other.yaml").root.resolve() == inside.resolve()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["init"], 2, "init needs MODEL"),
        (["init", "model.py:build"], 2, "init needs --data"),
        (["init", "model.py", "--data", "data.py:samples"], 2, "MODEL: 'model.py' is not a reference to a callable"),
        (["init", "model.py:biuld", "--data", "data.py:samples"], 3, "did you mean 'build'"),
        (["init", "model.py:fails", "--data", "data.py:samples"], 3, "no checkpoint"),
        ([*COMMAND, "--component", "lefd"], 2, "did you mean 'left'"),
        ([*COMMAND, "--name", "bad name"], 2, "'bad name' is not a name of letters, digits"),
        ([*COMMAND, "--weights", "none.safetensors"], 3, "none.safetensors"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(commands, arguments) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in inside.iterdir() if path.is_file()) == ["data.py", "model.py"]


def test_places_that_it_could_not_see_end_with_exit_code_2(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    branching = MODEL.replace("        return self.", "        if a.sum() > 99: a = -a\n        return self.")
    (inside / "model.py").write_text(branching)
    assert run(commands, [*COMMAND]) == 2
    shown = capsys.readouterr().out
    assert "1 place marked TODO(init) in recipe.yaml" in shown
    assert "model.py:14: return self.classify(torch.cat([self.left(a), self.right(b)], 1))" in shown
    assert "--whole makes a recipe with the whole model as one component" in shown
    assert run(commands, ["validate", "recipe.yaml"]) == 2
    assert run(commands, [*COMMAND, "--whole", "--force"]) == 0
    assert run(commands, ["validate", "recipe.yaml"]) == 0


def test_a_name_of_the_models_own_that_no_recipe_takes_is_marked(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "model.py").write_text(WITH_OTHER_LETTERS, encoding="utf-8")
    assert run(commands, [*COMMAND, "--yes"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 place marked TODO(init) in recipe.yaml, which init leaves to you: - grosse.module is 'größe'" in shown
    assert "\n  grosse: " in (inside / "recipe.yaml").read_text(encoding="utf-8")
    assert run(commands, ["validate", "recipe.yaml"]) == 2
    assert "components.grosse.module" in capsys.readouterr().err


def test_a_recipe_that_is_not_right_yet_says_what_comes_next(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = "self.classify(torch.cat([self.left(a), self.right(b)], 1))"
    (inside / "model.py").write_text(MODEL.replace(whole, "self.left(a)"))
    assert run(commands, [*COMMAND]) == 2
    told = capsys.readouterr().err
    assert "no component reads the input 'b'" in told and "hint: correct it, then mmdeploy validate recipe.yaml" in told


def test_on_a_terminal_it_asks_and_a_wrong_answer_is_asked_for_again(inside: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-c", "from mmdeploy.cli import main; main()", *COMMAND],
            os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        )
    shown, answers = b"", [b"lefd\n", b"\n", b"not mine\n", b"mine\n", b"cuda\n"]
    while select.select([terminal], [], [], 120)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if answers and shown.endswith(b"]: "):
            os.write(terminal, answers.pop(0))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"components, as paths of modules [left right head]" in shown
    assert b"did you mean 'left'" in shown
    recipe = load_recipe(inside / "recipe.yaml")
    assert (recipe.name, recipe.target) == ("mine", "cuda")

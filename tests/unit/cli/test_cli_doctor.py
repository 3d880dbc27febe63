"""``mmdeploy doctor``: what is there, what is missing, and whether a recipe can be built."""

import json
from pathlib import Path

import pytest

from mmdeploy.building import diagnosis
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import EnvironmentUnfitError


def found(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, dict[str, str]]:
    assert run(commands, ["doctor", *argv, "--json"]) == code
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}


def test_this_machine_builds_and_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "--workdir", str(tmp_path))
    assert told["passes"]["state"] == "ok" and "torch " in told["passes"]["what"]
    assert told["onnxruntime"]["what"] == "builds and runs here, target: cpu"
    assert told["Triton"]["state"] == "ok"
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise EnvironmentUnfitError("no Triton Inference Server", hint="pip install it")

    monkeypatch.setattr(diagnosis, "find_installation", none)
    absent = {"openvino", "torch"}
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None if name in absent else object())
    told = found(capsys, "--workdir", str(tmp_path), code=4)
    assert told["Triton"]["remedy"] == "pip install it"
    assert told["passes"]["what"] == "not installed: torch"
    assert (told["openvino"]["state"], told["openvino"]["remedy"]) == ("missing", "pip install openvino")
    assert run(commands, ["doctor", "--workdir", str(tmp_path)]) == 4
    assert "no Triton Inference Server\n" in capsys.readouterr().out


def test_a_work_folder_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "--workdir", "/proc/none", code=4)
    assert told["work folder"]["remedy"] == "name another folder with --workdir"


def test_a_recipe_that_builds_and_one_that_is_wrong(
    sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(capsys, str(sample))["spoken"]["what"] == "can be built, judged and served here"

    def unfit(*_: object) -> None:
        raise EnvironmentUnfitError("not installed: openvino (for image_encoder/engine)", hint="pip install openvino")

    monkeypatch.setattr("mmdeploy.building.environment.require_environment", unfit)
    assert found(capsys, str(sample), code=4)["spoken"]["remedy"] == "pip install openvino"
    sample.write_text("name: spoken\n")
    assert run(commands, ["doctor", str(sample)]) == 2


MODEL = """import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        return x * torch.rand(4)


def build():
    return Model()


def fine():
    return nn.Identity()
"""
DATA = """import numpy as np


def samples():
    for _ in range(4):
        yield {"input": np.ones(4, np.float32)}, 0


def xs():
    for _ in range(4):
        yield {"x": np.ones(4, np.float32)}, 0
"""


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("model_folder")
def test_a_model_that_will_not_deploy_is_told_by_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "model.py:build", "--data", "data.py:xs", code=3)
    assert told["chance"]["what"].startswith("model.py:7: return x * torch.rand(4)\n")
    assert told["chance"]["remedy"].startswith("instead: draw once in __init__")
    assert run(commands, ["doctor", "model.py:build", "--data", "data.py:xs", "--quiet"]) == 3
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.usefixtures("model_folder")
def test_a_model_that_deploys_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["doctor", "model.py:fine", "--data", "data.py:samples"]) == 0
    assert capsys.readouterr().out == "model.py:fine answered its samples: no form in it is known not to deploy\n"


def test_samples_and_weights_come_from_the_recipe_beside_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    factory = f"{Path(__file__).parents[3] / 'recipes' / 'spoken_digits' / 'model.py'}:build"
    assert run(commands, ["doctor", factory]) == 0
    assert f"{factory} answered its samples" in capsys.readouterr().out


def test_prefix_and_adapters_come_from_the_recipe_too(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    shapes = {"project.weight": (16, 8), "project.bias": (16,), "norm.weight": (16,), "norm.bias": (16,)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tiny_recipe.with_name("tower.safetensors"))
    lora = tiny_recipe.with_name("lora")
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "target_modules": ["projct"]}')
    save_file({"base_model.model.projct.lora_A.weight": torch.zeros(1, 8)}, lora / "adapter_model.safetensors")
    named = 'model:\n  weights: tower.safetensors\n  prefix: {"": left}\n  adapters: {left: lora}\n'
    tiny_recipe.write_text(tiny_recipe.read_text().replace("model:\n", named, 1))
    factory = f"{tiny_recipe.with_name('model.py')}:build"
    assert run(commands, ["doctor", factory]) == 3
    assert "adapter lora does not fit Tower: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["model.py:build"], "model.py:build is to answer samples, and none are given"),
        (["model.py:none", "--data", "data.py:xs"], "none"),
        (["--data", "data.py:xs"], "--data goes with a model"),
    ],
)
@pytest.mark.usefixtures("model_folder")
def test_what_cannot_be_asked_is_told(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["doctor", *argv]) in (2, 3)
    assert told in capsys.readouterr().err

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

"""``mmdeploy serve``: what is refused before any server starts. Serving itself is tested with a real Triton."""

import socket
from pathlib import Path

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def repository() -> Path:
    """A repository of one model; no server gets as far as reading it."""
    (Path("models") / "encoder" / "1").mkdir(parents=True)
    (Path("models") / "encoder" / "config.pbtxt").write_text('name: "encoder"\nbackend: "onnxruntime"\n')
    return Path("models")


def test_no_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["serve"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: model_repository is not there; expected a Triton model repository\n"
        "hint: build a recipe first: mmdeploy build RECIPE\n",
    )


def test_a_name_where_a_path_is_meant(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (Path("model_repository") / "digits").mkdir(parents=True)
    for verb in (["serve", "digits"], ["verify", "digits"], ["promote", "http://127.0.0.1:9", "digits"]):
        assert run(commands, verb) == 2
        assert "\nhint: did you mean model_repository/digits?\n" in capsys.readouterr().err


def test_an_empty_repository_a_file_and_one_model(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run(commands, ["serve", "empty"]) == 2
    assert capsys.readouterr().err.startswith("error: empty holds no Triton model: ")
    Path("file").write_text("")
    assert run(commands, ["serve", "file"]) == 2
    assert capsys.readouterr().err.startswith("error: file is not a folder; expected a Triton model repository\n")
    assert run(commands, ["serve", str(repository / "encoder")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: models/encoder is one model; expected a folder of models\nhint: did you mean ")


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none(capsys: pytest.CaptureFixture[str], option: str, port: str) -> None:
    assert run(commands, ["serve", option, port]) == 2
    assert option in capsys.readouterr().err


def test_a_port_that_is_taken(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--http-port", "0", "--grpc-port", port, "--metrics-port", "0"]
        assert run(commands, ["serve", str(repository), *arguments]) == 4
    told = capsys.readouterr().err
    assert told.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert told.endswith("hint: choose another port, or 0 for a free one\n")


def test_a_host_that_is_not_this_machine_s(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["serve", str(repository), "--host", "192.0.2.1"]) == 4  # TEST-NET-1 (RFC 5737)
    assert capsys.readouterr().err.startswith("error: cannot listen on 192.0.2.1:8000: Cannot assign requested address")


def test_a_server_that_is_none(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["serve", str(repository), "--server", "gone"]) == 4
    assert capsys.readouterr().err == "error: gone is not an executable file\nhint: name a tritonserver binary\n"


@pytest.mark.parametrize("url", ["localhost", "https://localhost:8000", "localhost:http"])
def test_a_url_that_is_none(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert run(commands, ["serve", "--url", url]) == 2
    assert capsys.readouterr().err.startswith(f"error: {url!r} is not the address of a server\nhint: accepted: ")


def test_a_url_where_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert run(commands, ["serve", "--url", f"http://127.0.0.1:{port}"]) == 3
    assert capsys.readouterr().err == (
        f"error: http://127.0.0.1:{port}/v2: the server does not answer (Connection refused)\n"
        "hint: start one with mmdeploy serve, and give the gRPC or HTTP address that it prints\n"
    )

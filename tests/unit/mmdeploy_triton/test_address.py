"""The address of a server that runs, and what is said where none answers."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import three_components

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import ServerError, UsageError
from mmdeploy.triton.address import START, Address
from mmdeploy.triton.repository import publish, stage
from mmdeploy.triton.server import attach


class _Answering(http.server.BaseHTTPRequestHandler):
    """Answers as Triton's HTTP endpoint does, or as a server of something else."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *words: object) -> None:
        """Keep quiet."""


class _Triton(_Answering):
    body = b'{"name": "triton", "version": "2.51.0"}'


class _Metrics(_Answering):
    body = b"# HELP nv_inference_request_success\n"


def port_of(handler: type[_Answering]) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def triton() -> Iterator[int]:
    yield from port_of(_Triton)


@pytest.fixture
def metrics() -> Iterator[int]:
    yield from port_of(_Metrics)


@pytest.fixture
def dead() -> int:
    """A port that nobody listens on, nor on the one before."""
    while True:
        with socket.socket() as one, socket.socket() as before:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                before.bind(("127.0.0.1", port - 1))
            except OSError:
                continue
            return port


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that is live below the working directory."""
    monkeypatch.chdir(tmp_path)
    staged = stage(tmp_path / "staged", three_components(tmp_path / "artifacts"))
    publish(staged.path, tmp_path / "model_repository", "pair", release_id="20260101-000000-aaaaaa", extra_files={})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a:1", Address("", "a", 1)),
        ("grpc://a:1/", Address("grpc", "a", 1)),
        ("http://[::1]:80", Address("http", "[::1]", 80)),
    ],
)
def test_what_an_address_is(url: str, expected: Address) -> None:
    assert Address.parsed(url) == expected
    assert Address.parsed(str(expected)) == Address("", expected.host, expected.port)


@pytest.mark.parametrize("url", ["", "a", ":1", "a:", "a:b", "https://a:1", "http://a:1/v2"])
def test_what_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a server"):
        Address.parsed(url)


def test_the_http_port_without_its_scheme_is_asked_for(triton: int) -> None:
    assert attach(f"http://127.0.0.1:{triton}").server_version == "2.51.0"
    with pytest.raises(ServerError, match="the server does not answer") as told:
        attach(f"127.0.0.1:{triton}")
    assert told.value.hint == f"is {triton} the HTTP port? say http://127.0.0.1:{triton}"


def test_what_speaks_http_but_is_no_triton(metrics: int) -> None:
    with pytest.raises(ServerError, match="speaks HTTP, but no KServe") as told:
        attach(f"http://127.0.0.1:{metrics}")
    assert told.value.hint == START


@pytest.mark.parametrize("verb", ["promote", "gateway --port 0 --url", "serve --url"])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_who_asks_a_dead_server_is_told_to_start_one(
    dead: int, verb: str, scheme: str, published: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(commands, [*verb.split(), f"{scheme}127.0.0.1:{dead}"]) == 3
    told = capsys.readouterr().err
    assert "/v2: the server does not answer (" in told
    assert f"hint: {START}\n" in told

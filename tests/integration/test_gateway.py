"""A gateway before a real Triton: what it answers, what it refuses and how, who may ask, how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import living_processes
import numpy as np
import pytest
from fastapi import Request
from served_gateway import (
    ADMIN,
    ASKING,
    BROKEN,
    CLIENT,
    CONTROL,
    INPUTS,
    MODEL,
    NEXT,
    Served,
    error_of,
    gateway,
    with_candidates,
)
from user_view import started, wait_until, without

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.gateway.body import read_body
from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.serve import bind
from mmdeploy.gateway.service import Buffered
from mmdeploy.gateway.settings import Settings as Limits
from mmdeploy.triton.client import GrpcRunner

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("gateway")]

RECIPE = Path(__file__).parents[1] / "tiny_recipe" / "recipe.yaml"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path) -> Path:
    root = tmp_path_factory.mktemp("published")
    mmdeploy.build(mmdeploy.load_recipe(RECIPE, ["gates=[]"]), Settings(workdir=shared_workdir, destination=root))
    return with_candidates(root / MODEL, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "keys").write_text(f"tests {CLIENT}\n")
    (folder / "admin").write_text(f"{ADMIN}\n")
    keys = ("--keys-file", "keys", "--admin-key-file", "admin")
    with gateway(repository, *keys, folder=folder) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A second gateway before the same Triton, which allows little and asks for no key."""
    limits = ("--max-mib", 1, "--max-rows", 3, "--rate", 0.001, "--burst", 12, "--allow-origin", "https://ours.example")
    folder = tmp_path_factory.mktemp("narrow")
    with gateway(*served.beside(), *limits, folder=folder) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(ASKING) as opened:
        yield opened


@pytest.fixture
def control(served: Served) -> Iterator[httpx.Client]:
    with served.client(CONTROL) as opened:
        yield opened


@pytest.fixture(scope="module")
def logits(served: Served) -> list[float]:
    with GrpcRunner(served.triton, MODEL) as runner:
        answer = runner.infer({name: np.array([row], np.float32) for name, row in INPUTS.items()})
    return [float(one) for one in answer["logits"][0]]


def npy(values: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values, np.float32))
    return stream.getvalue()


def test_lists_and_files_are_answered_as_triton_answers(client: httpx.Client, logits: list[float]) -> None:
    as_json = client.post("/infer", json={"inputs": INPUTS})
    as_form = client.post("/infer", files={"a": ("a.npy", npy(INPUTS["a"])), "b": (None, json.dumps(INPUTS["b"]))})
    for response in (as_json, as_form):
        assert response.status_code == 200, response.text
        told = response.json()
        assert told["outputs"]["logits"] == logits
        best = told["top"]["logits"]
        assert best[0]["class"] == int(np.argmax(logits))
        assert sum(one["share"] for one in best) == pytest.approx(1)
        assert told["modalities"] == {"used": ["a", "b"], "missing": []}
        assert (told["model"], told["served_by"]) == (MODEL, MODEL)


def test_a_batch_is_answered_row_by_row(client: httpx.Client, logits: list[float]) -> None:
    rows = [INPUTS, {"a": [0.0] * 8, "b": [0.0] * 8}]
    as_json = client.post("/batch", json={"rows": rows}).json()["rows"]
    parts = {f"{name}[{at}]": (None, json.dumps(row)) for at, one in enumerate(rows) for name, row in one.items()}
    as_form = client.post("/batch", files=parts).json()["rows"]
    assert as_json == as_form
    assert len(as_json) == 2
    assert as_json[0]["outputs"]["logits"] == pytest.approx(logits, abs=1e-4)


def test_models_tell_what_they_take(client: httpx.Client) -> None:
    (model,) = client.get("/models").json()["models"]  # parts, and what candidates are, are no models of clients
    assert model["name"] == MODEL
    assert [(one["name"], one["kind"], one["shape"]) for one in model["inputs"]] == [
        ("a", "tensor", [8]),
        ("b", "tensor", [8]),
    ]
    assert [(one["name"], one["meaning"]) for one in model["outputs"]] == [("logits", "logits")]


def test_it_is_alive_and_ready(served: Served) -> None:
    with served.client() as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}


WRONG: dict[str, tuple[str, str, dict[str, object], int, str, str]] = {
    "a wrong shape": (
        "POST",
        "/infer",
        {"json": {"inputs": {"a": [1.0], "b": INPUTS["b"]}}},
        400,
        "bad_request",
        "a: has the shape [1]",
    ),
    "an input left out": (
        "POST",
        "/infer",
        {"json": {"inputs": {"a": INPUTS["a"]}}},
        400,
        "bad_request",
        "b is missing: tensor, FP32 [8]",
    ),
    "NaN in a file": (
        "POST",
        "/infer",
        {"files": {"a": ("a.npy", npy([np.nan] * 8)), "b": ("b.npy", npy(INPUTS["b"]))}},
        400,
        "bad_request",
        "NaN",
    ),
    "another model": (
        "POST",
        "/infer?model=two_tower",
        {"json": {"inputs": INPUTS}},
        404,
        "not_found",
        "did you mean 'two_towers'?",
    ),
    "a part of a model": (
        "POST",
        f"/infer?model={MODEL}.left",
        {"json": {"inputs": INPUTS}},
        404,
        "not_found",
        "there is no model",
    ),
    "a form of text": (
        "POST",
        "/infer",
        {"data": {"a": "1"}},
        415,
        "unsupported_media_type",
        "application/x-www-form-urlencoded",
    ),
    "nothing": ("POST", "/infer", {}, 415, "unsupported_media_type", "of no type"),
    "too many rows": ("POST", "/batch", {"json": {"rows": [INPUTS] * 65}}, 413, "too_large", "the request has 65 rows"),
    "another path": ("GET", "/nothing", {}, 404, "not_found", "there is nothing here"),
    "another method": ("GET", "/infer", {}, 405, "method_not_allowed", "not by this method"),
    "up and out": ("GET", "/..%2f..%2fetc/passwd", {}, 404, "not_found", "there is nothing here"),
    "a name that is a path": ("POST", "/models/..%2fx/load", {}, 404, "not_found", "there is nothing here"),
    "a name that goes up": (
        "POST",
        "/models/%2e%2e/load",
        {"headers": CONTROL},
        404,
        "not_found",
        "is no name of a model",
    ),
    "a name with a query": (
        "POST",
        "/models/x%3fy=1/load",
        {"headers": CONTROL},
        404,
        "not_found",
        "is no name of a model",
    ),
    "a zero byte": ("POST", "/models/x%00/load", {"headers": CONTROL}, 404, "not_found", "is no name of a model"),
}


@pytest.mark.parametrize(("method", "path", "sent", "status", "code", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_form(
    client: httpx.Client, method: str, path: str, sent: dict[str, object], status: int, code: str, words: str
) -> None:
    response = client.request(method, path, **sent)  # type: ignore[arg-type]
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code), error
    assert words in error["message"]


STRANGERS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "no key": ("POST", "/infer", {}, 401),
    "a wrong key": ("POST", "/infer", {"Authorization": "Bearer nobody"}, 401),
    "a wrong scheme": ("POST", "/infer", {"Authorization": f"Basic {CLIENT}"}, 401),
    "no key for models": ("GET", "/models", {}, 401),
    "no key to load": ("POST", f"/models/{MODEL}/load", {}, 401),
    "a client loads": ("POST", f"/models/{MODEL}/load", ASKING, 403),
    "a client rolls out": ("PUT", f"/rollout/{MODEL}", ASKING, 403),
    "a client looks": ("GET", f"/rollout/{MODEL}", {"X-API-Key": CLIENT}, 403),
    "a page elsewhere asks": ("POST", "/infer", {**ASKING, "Origin": "https://elsewhere.example"}, 403),
    "a page elsewhere loads": (
        "POST",
        f"/models/{MODEL}/load",
        {**CONTROL, "Origin": "https://elsewhere.example"},
        403,
    ),
    "a file elsewhere loads": ("POST", f"/models/{MODEL}/load", {**CONTROL, "Origin": "null"}, 403),
    "a name elsewhere": ("GET", "/models", {**ASKING, "Host": "elsewhere.example"}, 403),
}


@pytest.mark.parametrize(("method", "path", "headers", "status"), STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_turned_away(
    served: Served, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    with served.client() as stranger:
        response = stranger.request(method, path, headers=headers)
    error_of(response)
    assert response.status_code == status
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert "access-control-allow-origin" not in response.headers


def test_who_holds_the_keys_is_let_in(served: Served, control: httpx.Client) -> None:
    with served.client() as stranger:
        assert stranger.get("/models", headers={"X-API-Key": CLIENT}).status_code == 200
    assert control.get("/models").status_code == 200
    assert control.post(f"/models/{MODEL}/load").json() == {"loaded": MODEL}
    refused = control.post("/models/nobody/load")
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")


def test_no_origin_may_control_whatever_cors_allows(narrow: Served) -> None:
    ours = {"Origin": "https://ours.example", "Access-Control-Request-Method": "POST"}
    with narrow.client() as page:
        assert page.options("/infer", headers=ours).headers["access-control-allow-origin"] == "https://ours.example"
        for path in (f"/models/{MODEL}/load", f"/rollout/{MODEL}"):
            assert "access-control-allow-origin" not in page.options(path, headers=ours).headers
            assert page.post(path, headers=ours).status_code == 403
        elsewhere = page.options("/infer", headers={**ours, "Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in elsewhere.headers


def raw(url: str, content: bytes, *, wait_s: float = 120) -> bytes:
    """Send bytes, and return what is answered until the connection is closed or nothing more comes."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=wait_s) as connection:
        connection.sendall(content)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                break
    return answer


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(narrow: Served) -> None:
    large = b"x" * (2 * 2**20)
    with narrow.client() as client:
        told = client.post("/infer", content=large, headers={"Content-Type": "application/json"})
        untold = client.post("/infer", content=iter([large]), headers={"Content-Type": "application/json"})
    for response in (told, untold):
        assert (response.status_code, error_of(response)["code"]) == (413, "too_large")
    head = (
        b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n"
    )
    assert raw(narrow.url, head + b"Expect: 100-continue\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_headers_without_end_are_refused(narrow: Served) -> None:
    assert raw(narrow.url, b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000).startswith(b"HTTP/1.1 400")


def test_a_key_that_asks_too_often_is_told_when_to_come_again(narrow: Served) -> None:
    with narrow.client() as client:
        answers = [client.get("/models") for _ in range(14)]
        assert client.get("/health").status_code == 200
    refused = answers[-1]
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit")
    assert int(refused.headers["retry-after"]) > 100


def test_a_candidate_answers_its_share_and_a_broken_one_none(client: httpx.Client, control: httpx.Client) -> None:
    path = f"/rollout/{MODEL}"
    assert control.get(path).status_code == 404
    told = control.put(path, json={"candidate": NEXT, "share": 0.5}).json()
    assert (told["candidate"], told["share"], told["shadow"]) == (NEXT, 0.5, False)
    served_by = [client.post("/infer", json={"inputs": INPUTS}).json()["served_by"] for _ in range(40)]
    arms = control.get(path).json()["arms"]
    assert {MODEL, NEXT} == set(served_by)
    assert arms["candidate"]["requests"] == served_by.count(NEXT) == len(arms["candidate"]["latencies_ms"])
    assert arms["live"]["requests"] == served_by.count(MODEL)
    control.put(path, json={"candidate": BROKEN, "share": 1.0})
    for _ in range(5):
        response = client.post("/infer", json={"inputs": INPUTS})
        assert (response.status_code, response.json()["served_by"]) == (200, MODEL)
    arms = control.get(path).json()["arms"]
    assert (arms["candidate"]["requests"], arms["candidate"]["failed"]) == (5, 5)
    assert (arms["live"]["requests"], arms["live"]["failed"]) == (5, 0)
    assert control.delete(path).json()["candidate"] == BROKEN
    assert control.delete(path).status_code == 404
    assert client.post("/infer", json={"inputs": INPUTS}).json()["served_by"] == MODEL


def test_a_shadow_is_compared_and_answers_nothing(client: httpx.Client, control: httpx.Client) -> None:
    path = f"/rollout/{MODEL}"
    control.put(path, json={"candidate": NEXT, "share": 1.0, "shadow": True})
    for _ in range(5):
        assert client.post("/infer", json={"inputs": INPUTS}).json()["served_by"] == MODEL
    wait_until(lambda: control.get(path).json()["compared"]["pairs"] == 5, "the comparison")
    assert control.delete(path).json()["compared"] == {"pairs": 5, "agree": 5, "worst_difference": 0.0}


WRONG_ROLLOUTS = {
    "itself": ({"candidate": MODEL}, 409, "is the live model itself"),
    "nobody": ({"candidate": "nobody"}, 409, "'nobody' is not loaded"),
    "a part": ({"candidate": f"{MODEL}.left"}, 409, "takes or gives other tensors"),
    "no candidate": ({}, 400, "candidate is null"),
    "more than all": ({"candidate": NEXT, "share": 1.5}, 400, "share is not from 0 to 1"),
    "another field": ({"candidate": NEXT, "shares": 1}, 400, "the body has 'shares'"),
}


@pytest.mark.parametrize(("body", "status", "words"), WRONG_ROLLOUTS.values(), ids=WRONG_ROLLOUTS)
def test_a_candidate_that_does_not_fit_is_refused(
    control: httpx.Client, body: dict[str, object], status: int, words: str
) -> None:
    response = control.put(f"/rollout/{MODEL}", json=body)
    assert response.status_code == status
    assert words in error_of(response)["message"]
    assert control.get(f"/rollout/{MODEL}").status_code == 404


def test_what_happened_is_counted_and_logged_and_no_key_is(served: Served, client: httpx.Client) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = {"X-Request-Id": "my-request", "traceparent": parent}
    assert client.post("/infer", json={"inputs": INPUTS}, headers=sent).headers["x-request-id"] == "my-request"
    assert client.post("/infer", json={"inputs": {}}).status_code == 400
    client.get(f"/models?key={ADMIN}")
    with served.client() as stranger:
        assert stranger.get("/models").status_code == 401
        metrics = stranger.get("/metrics").text
    for line in (
        f'mmdeploy_gateway_requests_total{{endpoint="/infer",model="{MODEL}",status="200"}}',
        f'mmdeploy_gateway_request_seconds_count{{model="{MODEL}"}}',
        f'mmdeploy_gateway_modalities_total{{modality="a",model="{MODEL}"}}',
        f'mmdeploy_gateway_missing_total{{missing="none",model="{MODEL}"}}',
        f'mmdeploy_gateway_confidence_bucket{{le="0.7",model="{MODEL}",output="logits"}}',
        f'mmdeploy_gateway_in_flight{{model="{MODEL}"}} 0.0',
        f'mmdeploy_gateway_refused_total{{model="{MODEL}",reason="bad_request"}}',
        'mmdeploy_gateway_refused_total{model="",reason="unauthorized"}',
    ):
        assert line in metrics
    wait_until(lambda: any("my-request" in line for line in served.log), "the log line")
    told = next(json.loads(line) for line in served.log if "my-request" in line)
    assert told["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (told["path"], told["status"], told["key"], told["model"]) == ("/infer", 200, "tests", MODEL)
    everything = "".join(served.log)
    assert not any(secret in everything for secret in (CLIENT, ADMIN))
    for line in served.log:
        json.loads(line)


def test_what_the_server_fails_at_is_a_5xx_until_it_is_well_again(served: Served, client: httpx.Client) -> None:
    """Its stubs are killed: the gateway says so, loads the models again, and answers."""
    stubs = living_processes.stubs(served.process.pid)
    assert stubs
    living_processes.kill(stubs)
    failed = client.post("/infer", json={"inputs": INPUTS})
    if failed.status_code == 200:  # it was quicker than we were
        assert any("was loaded again" in line for line in served.log)
    else:
        assert (failed.status_code, error_of(failed)["code"]) in ((502, "server_failed"), (503, "server_unavailable"))

    def answers() -> bool:
        response = client.post("/infer", json={"inputs": INPUTS})
        assert response.status_code in (200, 502, 503), response.text
        return response.status_code == 200

    wait_until(answers, "an answer")
    wait_until(lambda: any("was loaded again" in line for line in served.log), "the log line")


def test_requests_in_flight_are_bounded_and_finished_at_the_end(
    served: Served, tmp_path: Path, logits: list[float]
) -> None:
    """Two at a time: of many at once some are told to come again; what was being answered at SIGTERM is answered."""
    body = {"inputs": INPUTS}
    with gateway(*served.beside(), "--max-in-flight", 2, folder=tmp_path) as running:
        with running.client() as client, ThreadPoolExecutor(16) as pool:
            answers = [*pool.map(lambda _: client.post("/infer", json=body), range(200))]
            assert {one.status_code for one in answers} == {200, 503}
            busy = [one for one in answers if one.status_code == 503]
            assert all(error_of(one)["code"] == "busy" and one.headers["retry-after"] == "1" for one in busy)
            assert client.post("/infer", json=body).json()["outputs"]["logits"] == pytest.approx(logits, abs=1e-4)
        content = json.dumps(body).encode()
        head = "POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        parts = urlsplit(running.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=120) as slow:
            slow.sendall(head.encode() + content[:10])
            wait_until(lambda: raw(running.url, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n") != b"", "an answer")
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            slow.sendall(content[10:])
            assert slow.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_gateway_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    lacking = without(tmp_path / "site", "fastapi", "uvicorn")
    process = started("gateway", "nowhere", cwd=tmp_path, environment=lacking)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4
    assert errors.splitlines() == [
        "error: the gateway needs fastapi, uvicorn, which this environment lacks",
        'hint: pip install "multimodal-deploy[gateway]"',
    ]


WRONG_COMMANDS = {
    "everybody": (["--host", "0.0.0.0"], 2, "everybody who reaches 0.0.0.0 could ask: there are no API keys"),
    "no origin": (["--allow-origin", "example.org"], 2, "'example.org' is not an origin"),
    "no keys": (["--keys-file", "gone"], 2, "gone: keys cannot be read: No such file"),
    "nobody there": (["--url", "http://127.0.0.1:9"], 3, "the server does not answer"),
    "no address": (["--host", "192.0.2.1", "--open"], 4, "cannot listen on 192.0.2.1:8080"),
    "no repository": ([], 2, "nowhere is not there"),
}


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG_COMMANDS.values(), ids=WRONG_COMMANDS)
def test_a_wrong_command_is_one_clear_error(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    process = started("gateway", "nowhere", *arguments, cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert words in errors
    assert "Traceback" not in errors


_SCHEMATHESIS = """
hooks = "hooks.py"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415]
"""
#: That a file of base64 must hold as many numbers as the input has, no schema says.
_NO_FILES = """
import schemathesis

@schemathesis.hook
def filter_body(context, body):
    return "base64" not in repr(body)
"""
SCHEMA_RUNS = {
    "fuzzing": ("--max-examples", 10),
    "coverage": ("--exclude-checks", "positive_data_acceptance"),  # its cases pass no hook
}


@pytest.mark.parametrize(("phase", "options"), SCHEMA_RUNS.items(), ids=SCHEMA_RUNS)
def test_the_openapi_document_tells_the_truth(
    served: Served, tmp_path: Path, phase: str, options: tuple[object, ...]
) -> None:
    """Requests that the document allows are answered, all others refused, each answer as it says; nothing is a 500."""
    (tmp_path / "schemathesis.toml").write_text(_SCHEMATHESIS)
    (tmp_path / "hooks.py").write_text(_NO_FILES)
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    key = f"Authorization: Bearer {ADMIN}"
    how = ["--phases", phase, "--generation-deterministic", "--warnings", "off", *map(str, options)]
    found = subprocess.run(
        [*program, f"{served.url}/openapi.json", "-H", key, *how],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Operations:       10 selected / 10 total" in found.stdout
    assert not [line for line in served.log if '"status": 500' in line or '"exception"' in line]


def test_a_body_that_does_not_come_is_waited_for_so_long_and_no_longer() -> None:
    async def run() -> Refused:
        async def receive() -> dict[str, object]:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        buffered = Buffered(2**20)
        with buffered.hold() as held, pytest.raises(Refused) as refused:
            await read_body(request, Limits(body_timeout_s=0.2), held)
        assert buffered.now == 0
        return refused.value

    refused = asyncio.run(run())
    assert (refused.code, refused.status) == ("timeout", 408)


def test_bodies_together_hold_no_more_memory_than_they_may() -> None:
    buffered = Buffered(10)
    with buffered.hold() as one, buffered.hold() as other:
        one.add(6)
        with pytest.raises(Refused) as refused:
            other.add(6)
        assert refused.value.code == "busy"
        other.add(4)
    assert buffered.now == 0


def test_a_connection_that_sends_no_request_is_closed(served: Served) -> None:
    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=120) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert slow.recv(1000) == b""


def test_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY on connections whose protocol is named: else a body waits for the ACK of its headers."""
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()):
            accepted, _ = bound.accept()
            with accepted:
                assert accepted.proto == socket.IPPROTO_TCP

"""``mmdeploy infer``: files to the right inputs, answers as text or JSON; against a small KServe v2 server."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run

CONFIG = {
    "name": "adder",
    "max_batch_size": 8,
    "input": [{"name": name, "data_type": "TYPE_FP32", "dims": ["3"]} for name in ("a", "b")],
    "output": [{"name": "sum", "data_type": "TYPE_FP32", "dims": ["3"]}],
}


class Adder(http.server.BaseHTTPRequestHandler):
    """Serves one model that adds its two inputs; with ``max_batch_size: 0`` under the name ``single``."""

    def do_GET(self) -> None:
        if self.path == "/v2/models/stats":
            self.answer(200, {"model_stats": [{"name": "adder"}, {"name": "single"}]})
            return
        model = self.path.split("/")[3]
        config = CONFIG | {"name": model, "max_batch_size": 0 if model == "single" else 8}
        if model == "patient":
            config["input"] = [{**tensor, "optional": True} for tensor in CONFIG["input"]]  # type: ignore[attr-defined]
        if model == "counter":
            config["input"] = [{"name": "texts", "data_type": "TYPE_STRING", "dims": ["-1"]}]
            config["output"] = [{"name": "count", "data_type": "TYPE_FP32", "dims": ["1"]}]
        if model in ("adder", "single", "patient", "counter"):
            self.answer(200, config)
        else:
            self.answer(404, {"error": f"Request for unknown model: {model!r} is not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        shape = body["inputs"][0]["shape"]
        if "/counter/" in self.path:
            count = len(body["inputs"][0]["data"])
            output = {"name": "count", "datatype": "FP32", "shape": [1, 1], "data": [count]}
            self.answer(200 if shape == [1, count] else 400, {"outputs": [output]})
            return
        if shape != ([3] if "/single/" in self.path else [1, 3]):
            self.answer(400, {"error": f"unexpected shape {shape}"})
            return
        total = np.sum([tensor["data"] for tensor in body["inputs"]], axis=0).tolist()
        self.answer(200, {"outputs": [{"name": "sum", "datatype": "FP32", "shape": shape, "data": total}]})

    def answer(self, status: int, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Adder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([1, 2, 3], np.float32))
    Path("b.json").write_text("[10, 30, 20]")


@pytest.mark.parametrize("model", ["adder", "single"])
def test_answers_as_text(url: str, capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert run(commands, ["infer", model, "b=b.json", "a=a.npy", "--url", url]) == 0
    assert capsys.readouterr() == ("sum: [11. 32. 23.]\n  largest: 32.0000 at index 1\n", "")


def test_an_optional_input_may_be_left_out(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["infer", "patient", "b=b.json", "--json", "--url", url]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"sum": [10, 30, 20]}
    assert run(commands, ["infer", "patient", "--url", url]) == 2
    assert "no file for any input" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "count"), [("a cat\na big dog\n", 2), ("a cat", 1), ("", 1)])
def test_lines_are_the_texts_of_an_input_that_takes_several(
    url: str, capsys: pytest.CaptureFixture[str], text: str, count: int
) -> None:
    assert run(commands, ["infer", "counter", f"texts=text:{text}", "--json", "--url", url]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"count": [count]}


def test_answers_as_json_without_the_batch(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["infer", "adder", "a=a.npy", "b=b.json", "--json", "--url", f"{url}/"]) == 0
    told = {"schema_version": 1, "model": "adder", "outputs": {"sum": [11, 32, 23]}}
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a=a.npy", "aa=a.npy"], "error: the model has no input 'aa'; did you mean 'a'? accepted: a, b\n"),
        (["a=a.npy"], "error: no file for b: FP32 [3]\nhint: give one INPUT=FILE for each input\n"),
        ([], "error: no file for a: FP32 [3]; b: FP32 [3]\nhint: give one INPUT=FILE for each input\n"),
        (["a.npy"], "error: 'a.npy' is not INPUT=FILE\nhint: the model takes a: FP32 [3], b: FP32 [3]\n"),
        (
            ["a=a.npy", "a=b.json"],
            "error: two files for a: a.npy and b.json\nhint: give one INPUT=FILE for each input\n",
        ),
        (["a=a.npy", "b="], "error: b: there is no file .\n"),
    ],
)
def test_wrong_files(url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert run(commands, ["infer", "adder", *arguments, "--url", url]) == 2
    assert capsys.readouterr() == ("", told)


def test_an_unknown_model_names_those_that_are_served(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, ["infer", "addr", "a=a.npy", "--url", url]) == 3
    told = capsys.readouterr().err
    assert "Request for unknown model: 'addr' is not found (HTTP 404)\n" in told
    assert told.endswith("hint: did you mean 'adder'? accepted: adder, single\n")


@pytest.mark.parametrize(
    "address", ["localhost", "http://localhost", "https://localhost:8000", "ftp://a:1", ":8001", ""]
)
def test_what_is_no_address(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert run(commands, ["infer", "adder", "--url", address]) == 2
    assert capsys.readouterr().err == (
        f"error: {address!r} is not the address of a server\n"
        "hint: accepted: host:port or grpc://host:port for gRPC, http://host:port for HTTP\n"
    )

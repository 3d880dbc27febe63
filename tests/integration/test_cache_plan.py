"""A cache plan holds on a real Triton, and a server that was warmed up answers its first clients from the cache."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from settled_counts import settled
from user_view import read_until, started

import mmdeploy
from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.caching.contents import Contents
from mmdeploy.caching.layout import Known, asked_ensemble, known_of
from mmdeploy.caching.trace import Content, Request, write_trace
from mmdeploy.caching.verify import linked_with_cache, verify
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.record.observer import Silent
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.repository import require_intact
from mmdeploy.triton.response_cache import RESERVED_BYTES

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]
PORTS = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
POPULAR = {"a": Popularity(40, samples=True), "b": Popularity(400, exponent=0.6)}
SPECS = tuple(TensorSpec(name, "FP32", (8,)) for name in "ab")


@pytest.fixture
def built(tiny_recipe: Path, shared_workdir: Path):
    """The tiny recipe, and its release: unjudged."""
    loaded = mmdeploy.load_recipe(tiny_recipe, ("gates=[]",))
    outcome = run_build(loaded, Settings(workdir=shared_workdir, destination=tiny_recipe.parent / "pub"), Silent())
    assert outcome.report.published is not None
    return loaded, outcome.report.published


def hits(http_url: str, model: str) -> int:
    def read() -> int:
        (stats,) = ask_json(f"{http_url}/v2/models/{model}/stats")["model_stats"]
        return int(stats["inference_stats"]["cache_hit"]["count"])

    return settled(read)


def test_a_plan_is_verified_on_the_release_that_it_leaves_alone(tiny_recipe, built, shared_workdir, capfd):
    _, release = built
    trace = tiny_recipe.with_name("requests.jsonl")
    write_trace(trace, zipf_trace(POPULAR, 250, seed=5))
    options = ["--trace", str(trace), "--output", str(release.parent), "--workdir", str(shared_workdir), "--verify"]
    assert run(commands, ["cache-plan", str(tiny_recipe), *options, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["models"]["left"]["cost_source"].endswith("at 10 GFLOP/s")
    assert told["models"]["left"]["contents"] <= 40
    assert told["verified"]["agrees"]
    checked = {one["model"]: one for one in told["verified"]["models"]}
    assert all(one["lookups"] == 250 and one["points"] <= 5 for one in checked.values())
    assert checked["left"]["measured"] > 0.7
    require_intact([release])


def test_what_is_dropped_for_want_of_room_is_reckoned_within_five_points(built, tmp_path):
    recipe, release = built
    known = known_of(recipe, release, None, {})
    ensemble = asked_ensemble(recipe, known)
    requests = zipf_trace({name: Popularity(120, exponent=0.8) for name in "ab"}, 500, seed=11, together=0.4)
    cached = ("left", "right", "two_towers")
    room = RESERVED_BYTES + 45 * ensemble.models["left"].entry(1)  # of three sizes of entries, far too few
    found = verify(
        release, ensemble, requests, Contents(SPECS, trace=tmp_path / "requests.jsonl"),
        cached=cached, size_bytes=room, log=tmp_path / "triton.log",
    )  # fmt: skip
    rates = {one.model: (round(one.reckoned, 3), round(one.measured, 3)) for one in found.models}
    assert found.agrees, rates
    assert 0.1 < rates["left"][1] < 0.7


def test_a_server_that_was_warmed_up_answers_its_first_clients_from_the_cache(built, tmp_path):
    _, release = built
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(8).astype(np.float32) for name in ("one", "two", "rare")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    asked = [("rare", "rare"), ("one", "two"), ("two", "two"), ("one", "two"), ("two", "two")]
    trace = [
        Request(float(at), {name: (Content("file", f"{file}.npy"),) for name, file in zip("ab", files, strict=True)})
        for at, files in enumerate(asked)
    ]
    write_trace(tmp_path / "popular.jsonl", [*trace, Request(9.0, {name: (Content("hash", "x"),) for name in "ab"})])
    folder = tmp_path / "cached"
    folder.mkdir()
    linked_with_cache(release, folder, {"two_towers"})
    options = ["--warm-trace", tmp_path / "popular.jsonl", "--warm-requests", 2, "--cache-mib", 1]
    process = started("serve", folder, *PORTS, *options, cwd=tmp_path)
    said = "".join(read_until(process, "Ctrl-C stops it."))
    assert "warmed up two_towers with 2 requests\n" in said
    grpc, http = (re.search(rf"^  {name} +(\S+)$", said, re.MULTILINE)[1] for name in ("gRPC", "HTTP"))
    with GrpcRunner(grpc, "two_towers") as runner:
        before = hits(http, "two_towers")
        for name, expected in (("one", 1), ("two", 2), ("rare", 2)):
            other = "rare" if name == "rare" else "two"
            runner.infer({"a": arrays[name][None], "b": arrays[other][None]})
            assert hits(http, "two_towers") - before == expected
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "stopping\n", "  1 request left out: they name no files\n")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"time": 0, "inputs": {"a": "x", "b": "x"}}', "requests.jsonl: no request names files alone, so nothing"),
        (
            '{"time": 0, "inputs": {"a": {"file": "wide.npy"}, "b": {"file": "one.npy"}}}',
            "requests.jsonl:1: a: wide.npy",
        ),
        (
            '{"time": 0, "inputs": {"a": {"file": "gone.npy"}, "b": {"file": "one.npy"}}}',
            "requests.jsonl:1: a: there is",
        ),
        ('{"time": 0, "inputs": {"a": {"file": "one.npy"}}}', "requests.jsonl:1: the request leaves out 'b'"),
        (
            f'{{"time": 0, "inputs": {{"a": {["x"] * 9}, "b": {["x"] * 9}}}}}'.replace("'", '"'),
            "requests.jsonl:1: 9 rows",
        ),
        ("", "requests.jsonl has no requests"),
        (None, "requests.jsonl cannot be read: No such file"),
    ],
)
def test_a_warm_up_that_cannot_be_is_refused_before_a_server_starts(built, tmp_path, monkeypatch, capsys, line, told):
    monkeypatch.chdir(tmp_path)
    for name, size in (("one", 8), ("wide", 9)):
        np.save(tmp_path / f"{name}.npy", np.zeros(size, np.float32))
    if line is not None:
        Path("requests.jsonl").write_text(line, encoding="utf-8")
    assert run(commands, ["serve", str(built[1]), *PORTS, "--warm-trace", "requests.jsonl"]) == 2
    assert f"error: {told}" in capsys.readouterr().err
    assert not Path(".mmdeploy/serve").exists(), "a server was started"


@pytest.mark.parametrize(
    ("line", "verified", "told"),
    [
        (f'{{"time": 1, "inputs": {{"a": {["x"] * 9}, "b": {["y"] * 9}}}}}'.replace("'", '"'), False, "9 rows, and"),
        ('{"time": 1, "inputs": {"a": "x"}}', False, "the request leaves out 'b'"),
        (
            '{"time": 1, "inputs": {"a": {"sample": 9999}, "b": "x"}}',
            True,
            "a: sample 9999 cannot be had: the data has",
        ),
        ('{"time": 1, "inputs": {"a": {"file": "gone.npy"}, "b": "x"}}', True, "a: there is no file"),
        ('{"time": 1, "inputs": {"a": {"file": "nan.npy"}, "b": "x"}}', True, "two_towers"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_with_and_without_a_server(
    tiny_recipe, built, shared_workdir, capsys, line, verified, told
):
    np.save(tiny_recipe.with_name("nan.npy"), np.full(8, np.nan, np.float32))
    trace = tiny_recipe.with_name("requests.jsonl")
    trace.write_text('{"time": 0, "inputs": {"a": "x", "b": "x"}}\n' + line, encoding="utf-8")
    options = ["--trace", str(trace), "--output", str(built[1].parent), "--workdir", str(shared_workdir)]
    assert run(commands, ["cache-plan", str(tiny_recipe), *options, *(["--verify"] if verified else [])]) == 2
    assert f"{trace}:2: {told}" in capsys.readouterr().err


def test_known_sizes_come_from_the_release_or_the_user(built):
    recipe, release = built
    with pytest.raises(UsageError, match=r"size of an answer of 'left' is not known: its outputs are declared nowhere"):
        asked_ensemble(recipe, known_of(recipe, None, None, {}))
    with pytest.raises(UsageError, match=r"'lefd' is no model of the recipe; did you mean 'left'"):
        known_of(recipe, None, None, {"lefd": 1})
    told = asked_ensemble(recipe, known_of(recipe, None, None, {"left": 64, "right": 64})).models["left"]
    released = asked_ensemble(recipe, known_of(recipe, release, None, {})).models["left"]
    assert told.row_bytes == released.row_bytes == 64
    assert isinstance(known_of(recipe, release, None, {}), Known)

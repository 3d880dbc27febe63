"""Samples in chunks on a real Triton: states go on within a sequence, end with it, and do not mix."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from settled_counts import settled
from whole_recipe import built, served

from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import InferenceError, ModelError, UsageError
from mmdeploy.gateway.catalogue import models_of
from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.service import Gateway
from mmdeploy.gateway.settings import Settings
from mmdeploy.model.sources import resolve_callable
from mmdeploy.packaging.containers import newest
from mmdeploy.packaging.image import probe
from mmdeploy.packaging.package import package
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.performance.bench import run
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits
from mmdeploy.performance.samples import find
from mmdeploy.performance.target import open_target
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.config import parse
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

FOLDER = Path(__file__).parents[1] / "stream_recipe"
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(FOLDER / "recipe.yaml", tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module", params=["grpc", "http"])
def runner(request: pytest.FixtureRequest, server: Server) -> Iterator[GrpcRunner | HttpRunner]:
    made = GrpcRunner(server.grpc_url, "flow") if request.param == "grpc" else HttpRunner(server.http_url, "flow")
    with made as opened:
        yield opened


@functools.cache
def network() -> torch.nn.Module:
    found: torch.nn.Module = resolve_callable("model.py:build", FOLDER, error=ModelError)()
    return found


@torch.no_grad()
def whole(feed: Feed) -> Feed:
    """Answer with the PyTorch model, which reads each sample in one go."""
    signal, tone = (torch.from_numpy(feed[name]) for name in ("signal", "tone"))
    last, each = network().memory(network().encode(signal))
    return {"scores": network().head(last, tone).numpy(), "each": each.numpy()}


def feed_of(seed: int, length: int = 13) -> Feed:
    random = np.random.default_rng(seed)
    draw = random.normal(size=(1, length, 4)), random.normal(size=(1, 3))
    return dict(zip(("signal", "tone"), (one.astype(np.float32) for one in draw), strict=True))


def piece(feed: Feed, start: int, end: int) -> Feed:
    return {**feed, "signal": feed["signal"][:, start:end]}


def alike(found: Feed, wanted: Feed) -> bool:
    return all(np.allclose(found[name], wanted[name], atol=0.02) for name in wanted)  # the encoder is in INT8


def test_it_is_judged_in_chunks_and_triton_takes_it(outcome):
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates
    assert outcome.report.published is not None and not lint(outcome.report.published)


@pytest.mark.parametrize("lengths", [(13,), (1, 1, 11), (4, 9), (5, 5, 3)])
def test_chunks_of_any_length_answer_what_the_whole_does(runner, lengths):
    feed, sequence, start, found = feed_of(1), runner.chunks(), 0, []
    for index, length in enumerate(lengths):
        found.append(sequence.infer(piece(feed, start, start + length), end=index == len(lengths) - 1))
        start += length
        assert alike({"scores": found[-1]["scores"]}, {"scores": whole(piece(feed, 0, start))["scores"]})
    assert alike({"each": np.concatenate([one["each"] for one in found], axis=1)}, {"each": whole(feed)["each"]})


def test_a_plain_request_of_several_rows_is_cut_by_the_client(runner):
    feeds = [feed_of(seed, 11) for seed in range(3)]
    joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    assert alike(runner.infer(joined), whole(joined))


def test_two_sequences_that_take_turns_do_not_mix(runner):
    feeds, sequences = [feed_of(seed, 12) for seed in (5, 6)], [runner.chunks() for _ in range(2)]
    for start in range(0, 12, 3):
        found = [one.infer(piece(feed, start, start + 3)) for one, feed in zip(sequences, feeds, strict=True)]
    for one, feed in zip(found, feeds, strict=True):
        assert alike({"scores": one["scores"]}, {"scores": whole(feed)["scores"]})
    assert not alike({"scores": found[0]["scores"]}, {"scores": found[1]["scores"]})


def test_many_sequences_at_once_are_batched_and_do_not_mix(server):
    def right(seed: int) -> bool:
        feed = feed_of(seed, 20)
        with server.runner("flow") as own:
            return all(alike(own.infer(feed), whole(feed)) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(8)))


def test_a_chunk_that_is_refused_ends_its_sequence_and_no_other(runner):
    feed, sequence, other = feed_of(7), runner.chunks(), runner.chunks()
    for one in (sequence, other):
        one.infer(piece(feed, 0, 6))
    with pytest.raises(InferenceError, match="infinite"):
        sequence.infer({**feed, "signal": np.full((1, 7, 4), np.inf, np.float32)})
    with pytest.raises(InferenceError, match="is over"):
        sequence.infer(piece(feed, 6, 13))
    assert alike({"scores": other.infer(piece(feed, 6, 13))["scores"]}, {"scores": whole(feed)["scores"]})


def test_a_start_that_is_refused_leaves_nothing_of_what_was_there_under_its_number(server):
    def features(seed: int) -> Feed:
        return {"features": np.random.default_rng(seed).normal(size=(1, 3, 8)).astype(np.float32)}

    start = {"sequence_id": 9, "sequence_start": True, "sequence_end": False}
    with server.runner("flow.memory") as kept:
        fresh = kept._ask(features(2), start | {"sequence_id": 8})
        kept._ask(features(1), start)
        with pytest.raises(InferenceError, match=r"NaN|nan"):
            kept._ask({"features": np.full((1, 3, 8), np.nan, np.float32)}, start)
        found = kept._ask(features(2), start | {"sequence_start": False})
    np.testing.assert_allclose(found["last"], fresh["last"], atol=1e-6)


def test_a_model_that_takes_whole_samples_takes_no_chunks(server):
    with server.runner("flow.encode") as encoder, pytest.raises(UsageError, match="takes whole samples, not chunks"):
        encoder.chunks()


def test_a_sequence_begins_and_is_forgotten_behind_its_end_and_when_idle(runner):
    feed = feed_of(8)
    go_on = {"sequence_id": 77, "sequence_start": False, "sequence_end": False}
    with pytest.raises(InferenceError, match="must specify the START flag"):
        runner._ask(feed, go_on)
    with pytest.raises(InferenceError, match="must specify a non-zero or non-empty correlation ID"):
        runner._ask(feed)
    runner._ask(feed, go_on | {"sequence_start": True, "sequence_end": True})
    with pytest.raises(InferenceError, match="must specify the START flag"):
        runner._ask(feed, go_on)
    if isinstance(runner, GrpcRunner):  # once is enough: it waits
        runner._ask(feed, go_on | {"sequence_start": True})
        for idle_s in (2.5, 5, 10, 20):  # Triton looks now and then, and each request is a new beginning
            time.sleep(idle_s)
            try:
                runner._ask(feed, go_on)
            except InferenceError as error:
                assert "must specify the START flag" in error.message
                return
        raise AssertionError("a sequence that nobody went on with is not forgotten")


def test_a_sequence_that_is_closed_leaves_its_place_to_others(server):
    """Of 8 places: what is closed, or was refused in the middle, must not hold one until it was idle for long."""
    feed, spoiled = feed_of(9), {**feed_of(9), "signal": np.full((1, 13, 4), np.inf, np.float32)}
    with server.runner("flow") as runner:
        for number in range(9):
            with runner.chunks() as sequence:
                sequence.infer(piece(feed, 0, 6))
                if number % 2:
                    with pytest.raises(InferenceError, match="infinite"):
                        sequence.infer(piece(spoiled, 6, 13))
            go_on = {"sequence_id": sequence._id, "sequence_start": False, "sequence_end": False}
            with pytest.raises(InferenceError, match="must specify the START flag"):
                runner._ask(piece(feed, 6, 13), go_on)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_bench_measures_chunks(outcome, server, protocol):
    target = open_target(server.grpc_url if protocol == "grpc" else server.http_url, "flow", chunks=True)
    asked = find(target, release=outcome.report.published)
    limits = Limits(window_s=0.1, agreeing=2, max_seconds=0.3)
    before = counted(server)
    with pytest.raises(UsageError, match="so none is due at a time of its own"):
        run(target, asked, [Loop(rate_per_s=5)], limits)
    with pytest.raises(UsageError, match="in chunks of one row each: --batch 2"):
        run(target, asked, [Loop(1)], limits, batch=2)
    measured = run(target, asked, [Loop(3)], limits)
    [point] = measured.points
    assert point.requests and not point.failed, point.reasons
    assert measured.to_json()["chunk"] == 4 and "a request is a chunk" in next(measured.notes())
    lengths = [feed["signal"].shape[1] for feed in asked.feeds]
    once = sum(-(-length // 4) for length in lengths)  # before the load each sample was asked once
    assert max(lengths) > 4 and counted(server) - before >= once + point.requests


def counted(server: Server) -> int:
    """Return how many chunks the memory has answered."""
    stats = settled(open_target(server.grpc_url, "flow", chunks=True).statistics)
    return sum(int(one["inference_stats"]["success"]["count"]) for one in stats if one["name"] == "flow.memory")


def test_what_knows_no_sequences_refuses_a_stream(outcome, server, tmp_path):
    for url in (server.grpc_url, server.http_url):
        with pytest.raises(UsageError, match="flow takes samples in chunks"):
            open_target(url, "flow")
    with pytest.raises(UsageError, match="the gateway knows no sequences"):
        package(outcome.report.published, tmp_path / "deploy", newest(), PackageSettings(gateway=True))
    release = resolve(outcome.report.published)[0]
    configs = {path.parent.name: parse(path.read_text(), path.name) for path in release.glob("*/config.pbtxt")}
    gateway = Gateway(server, Settings())
    with pytest.raises(Refused, match="the gateway knows no sequences"):
        asyncio.run(gateway.answer(models_of(configs)["flow"], feed_of(1)))


def test_probes_of_containers_send_a_sequence(outcome, server, capsys):
    release = str(resolve(outcome.report.published)[0])
    for _ in range(2):
        assert probe.main(["--release", release, "--url", server.http_url]) == 0, capsys.readouterr().out

"""Measure a recipe as an ensemble of steps, as one model, and as the composed graph in process, in one run.

    python benchmarks/layouts.py recipes/spoken_digits [--rounds 9] [--clients 1 8] [--set KEY=VALUE] [--workdir DIR]
        [--json FILE]

The recipe is built with ``layout: auto`` and without gates. Both layouts are served by a Triton each and asked in turns
(a block a round, in an order that turns); ratios are medians over the rounds, so what else runs on the machine hits
both sides of a ratio. Answers must be the same to the last bit.

A second table says where the time of one client goes, from Triton's own statistics: what a request waits in the queues
of steps that follow each other, what their engines take in process, the way to the processes of steps and back, and
what is left for the client, gRPC and the ensemble.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from embedded_serving import Ask, block

import mmdeploy
from mmdeploy.building.builder import run_build
from mmdeploy.building.served_ensemble import candidate_ensemble, stand_ins
from mmdeploy.building.settings import Settings
from mmdeploy.building.single_model import as_single
from mmdeploy.core.sessions import open_session
from mmdeploy.core.target import this_hardware
from mmdeploy.engines.built_from import graph_path
from mmdeploy.performance.counters import between, counted
from mmdeploy.performance.target import open_target
from mmdeploy.planning.planned_layout import SINGLE_ENGINE
from mmdeploy.record.observer import Silent
from mmdeploy.triton import server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.staging import stage

WAYS = ("in process", "single", "ensemble")
#: Requests of a block for each client.
_REQUESTS = 60


@dataclass(frozen=True)
class Row:
    """One way at one number of clients; medians over the rounds."""

    clients: int
    way: str
    p50_ms: float
    added_p50_ms: float
    samples_per_s: float
    rate_of_in_process: float
    ensemble_p50_ratio: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="as of build")
    parser.add_argument("--workdir", type=Path, help="work folder of the build, to reuse what it has")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = arguments.recipe / "recipe.yaml" if arguments.recipe.is_dir() else arguments.recipe
    recipe = mmdeploy.load_recipe(path, ["layout=auto", "gates=[]", *arguments.sets])
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        settings = Settings(workdir=arguments.workdir or folder / "work", destination=folder / "published")
        outcome = run_build(recipe, settings, Silent())
        if outcome.error is not None:
            raise outcome.error
        ensemble = candidate_ensemble(recipe, outcome.artifacts)
        single = as_single(recipe, ensemble, outcome.artifacts[SINGLE_ENGINE])
        asks: dict[str, list[Ask]] = {}
        servers: dict[str, server.Server] = {}
        session = open_session(graph_path(outcome.artifacts[SINGLE_ENGINE]), {"intra_op_thread_count": "1"})
        names = [spec.name for spec in ensemble.outputs]
        most = max(arguments.clients)
        asks["in process"] = [lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))] * most
        for way, one in (("single", single), ("ensemble", ensemble)):
            stage(folder / way, one)
            running = stack.enter_context(
                server.start(
                    [folder / way], log=folder / f"{way}.log", response_cache_bytes=0, stand_ins=stand_ins(recipe)
                )
            )
            servers[way] = running
            asks[way] = [GrpcRunner(running.grpc_url, recipe.name).infer for _ in range(most)]
        feed = {spec.name: single.components[0].sample[spec.name][None] for spec in ensemble.inputs}
        for way in WAYS[1:]:
            for name, array in asks[way][0](feed).items():
                np.testing.assert_array_equal(array, asks["in process"][0](feed)[name], err_msg=f"{way}: {name}")
        rows = [row for clients in arguments.clients for row in measured(asks, feed, clients, arguments.rounds)]
        paths = {"single": [[single.components[0]]], "ensemble": in_order(ensemble)}
        shares = [went(servers[way], asks[way][0], feed, paths[way]) for way in WAYS[1:]]
    print(f"{recipe.name}, batch 1, {this_hardware()}\n")
    print("| clients | way | p50 ms | added to in process, ms | samples/s | of in process | ensemble's p50 over its |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.clients} | {row.way} | {row.p50_ms:.2f} | {row.added_p50_ms:+.2f} | {row.samples_per_s:.0f} "
            f"| {row.rate_of_in_process:.2f} | {row.ensemble_p50_ratio:.2f} |"
        )
    print("\n| where one client's mean goes, ms | " + " | ".join(WAYS[1:]) + " |\n|---|---:|---:|")
    for name in shares[0]:
        print(f"| {name} | " + " | ".join(f"{share[name]:.2f}" for share in shares) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measured(asks: dict[str, list[Ask]], feed: dict[str, np.ndarray], clients: int, rounds: int) -> list[Row]:
    """Ask all ways in turns; return a row each."""
    p50s: dict[str, list[float]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_ in range(-1, rounds):  # the first warms up
        for way in WAYS[round_ % 3 :] + WAYS[: round_ % 3]:
            latencies, wall_s = block(asks[way][:clients], [feed], _REQUESTS * clients)
            if round_ >= 0:
                p50s[way].append(float(np.median(latencies)))
                rates[way].append(len(latencies) / wall_s)
            print(f"\r{clients} clients, round {round_ + 1} of {rounds}", end="", file=sys.stderr)
    print(file=sys.stderr)

    def middle(ours: list[float], base: list[float]) -> float:
        return statistics.median(one / other for one, other in zip(ours, base, strict=True))

    return [
        Row(
            clients=clients,
            way=way,
            p50_ms=statistics.median(p50s[way]),
            added_p50_ms=statistics.median(a - b for a, b in zip(p50s[way], p50s["in process"], strict=True)),
            samples_per_s=statistics.median(rates[way]),
            rate_of_in_process=middle(rates[way], rates["in process"]),
            ensemble_p50_ratio=middle(p50s["ensemble"], p50s[way]),
        )
        for way in WAYS
    ]


def in_order(ensemble: ServedEnsemble) -> list[list[ServedComponent]]:
    """Return the components in stages: those of a stage wait for none of each other."""
    left, stages = list(ensemble.components), []
    while left:
        awaited = {name for one in left for name in one.outputs.values()}
        stages.append([one for one in left if not awaited & set(one.inputs.values())])
        left = [one for one in left if one not in stages[-1]]
    return stages


def went(
    served: server.Server, ask: Ask, feed: dict[str, np.ndarray], stages: list[list[ServedComponent]]
) -> dict[str, float]:
    """Ask as one client; return where a request's mean time goes, in milliseconds.

    Of components side by side, the slower one counts.
    """
    names = [one.name for stage_ in stages for one in stage_]
    engines = {one.name: _in_process_ms(one) for stage_ in stages for one in stage_}
    block([ask], [feed], _REQUESTS)
    target = open_target(served.grpc_url, None)
    before = counted(target.statistics())
    latencies, _ = block([ask], [feed], 10 * _REQUESTS)
    found = between(before, counted(target.statistics()), names)
    slowest = [max(stage_, key=lambda one: found[one.name].queue_ms + found[one.name].compute_ms) for stage_ in stages]
    queued = sum(found[one.name].queue_ms for one in slowest)
    computed = sum(found[one.name].compute_ms for one in slowest)
    engine = sum(engines[one.name] for one in slowest)
    whole = float(np.mean(latencies))
    return {
        "the engines, as in process": engine,
        "waiting in queues, also for a batch": queued,
        "to the processes of steps and back": computed - engine,
        "client, gRPC and the ensemble": whole - queued - computed,
        "all": whole,
    }


def _in_process_ms(component: ServedComponent) -> float:
    session = open_session(graph_path(component.artifact), {"intra_op_thread_count": "1"} | dict(component.parameters))
    feed = {name: array[None] for name, array in component.sample.items()}
    times = []
    for _ in range(5 * _REQUESTS):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.mean(times[_REQUESTS:])


if __name__ == "__main__":
    main()

"""Swaps releases under load on a real Triton; counts requests that fail and answers of two releases, and times them.

Run it as ``python benchmarks/hot_swap.py [--swaps 20] [--clients 8] [--json FILE]``. The releases are made so that an
answer tells which release each part of it was of: two encoders add ``k`` and ``10 k``, the head adds ``100 k``, for
release number ``k``. An answer of ``111 k`` more than what was sent is of one release; any other is mixed.

Clients ask without pause, in a process of their own. First nothing is swapped (*steady*); then the releases take turns,
there (a swap) and back (a rollback), each by `mmdeploy.rollout.promote`. Last, the naive way: the files of the models
are replaced under their names and the models loaded again, with ``model_version: -1``. It must show mixed answers, or
else the harness sees nothing.

The exit code is 1 where a request failed or an answer was mixed, fewer requests were asked than promised, the naive way
mixed nothing, or the 99th percentile of requests that were under way during a promotion is more than 3 times the steady
one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.core.target import this_hardware
from mmdeploy.rollout.promote import examined, promote
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.golden import GOLDEN, Golden, GoldenRequest, write_golden
from mmdeploy.triton.options import InstanceGroup, Serving
from mmdeploy.triton.repository import publish, stage
from mmdeploy.triton.response_cache import with_versions
from mmdeploy.triton.server import Server

NAME, FAILED, MIXED = "numbers", -1, -2
WIDTH = 4
SHARE = {"left": 1, "right": 10, "head": 100}
VECTOR = (WIDTH,)
HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
GRAPHS = {
    "left": "g (float[N,4] x) => (float[N,4] y) <float[1] k = {%s}> { y = Add(x, k) }",
    "right": "g (float[N,4] x) => (float[N,4] y) <float[1] k = {%s}> { y = Add(x, k) }",
    "head": "g (float[N,4] p, float[N,4] q) => (float[N,4] z) <float[1] k = {%s}> { s = Add(p, q) z = Add(s, k) }",
}


def release(root: Path, number: int, *, cached: bool = False, parts: Sequence[str] = tuple(SHARE)) -> Path:
    """Publish a release and return its folder.

    Args:
        root: Where to.
        number: What its answers tell.
        cached: Let Triton's response cache keep the answers of an encoder and of the ensemble.
        parts: Those that are of this number; others are of release 1.
    """
    import onnx
    from onnx import parser

    with tempfile.TemporaryDirectory() as scratch:
        made = []
        for name, share in SHARE.items():
            path = Path(scratch) / name / "model.onnx"
            path.parent.mkdir()
            own = share * (number if name in parts else 1)
            onnx.save(parser.parse_model(f"{HEAD} {GRAPHS[name] % float(own)}"), path)
            made.append(_component(name, path, cached=cached and name == "left"))
        tensors = [TensorSpec(name, "FP32", VECTOR) for name in ("a", "b", "z")]
        ensemble = ServedEnsemble(NAME, tuple(tensors[:2]), tuple(tensors[2:]), tuple(made), response_cache=cached)
        staged = stage(Path(scratch) / "staged", with_versions(ensemble))
        golden = Path(scratch) / GOLDEN
        write_golden(golden, Golden(NAME, tuple(_golden(row, number, parts) for row in range(4)), {"z": 1e-3}))
        whole = len(parts) == len(SHARE)
        release_id = "-".join(["release", str(number), *(["cached"] if cached else []), *([] if whole else parts)])
        return publish(staged.path, root, NAME, release_id=release_id, extra_files={GOLDEN: golden}).resolve()


def _component(name: str, path: Path, *, cached: bool) -> ServedComponent:
    inputs = ("p", "q") if name == "head" else ("x",)
    output = "z" if name == "head" else "y"
    artifact = Artifact(
        "onnx", path, file_sha256(path), tuple(TensorSpec(one, "FP32", VECTOR) for one in inputs),
        (TensorSpec(output, "FP32", VECTOR),), "benchmark",
    )  # fmt: skip
    wiring = {"left": {"x": "a"}, "right": {"x": "b"}, "head": {"p": "of_left", "q": "of_right"}}
    return ServedComponent(
        name=f"{NAME}.{name}", backend="onnxruntime", filename="model.onnx", artifact=artifact,
        inputs=wiring[name], outputs={output: "z" if name == "head" else f"of_{name}"},
        serving=Serving(max_batch_size=8, instance_group=InstanceGroup(kind="cpu"), response_cache=cached),
        parameters={"intra_op_thread_count": "1", "session.intra_op.allow_spinning": "0"},
    )  # fmt: skip


def _feed(row: int) -> dict[str, np.ndarray]:
    return {"a": np.full((1, WIDTH), row, np.float32), "b": np.full((1, WIDTH), 1000 * row, np.float32)}


def _golden(row: int, number: int, parts: Sequence[str]) -> GoldenRequest:
    added = sum(share * (number if name in parts else 1) for name, share in SHARE.items())
    answer = np.full((1, WIDTH), 1001 * row + added, np.float32)
    return GoldenRequest(f"sample {row}", _feed(row), {"z": answer})


def asked(grpc_url: str, stop: Callable[[], bool], records: list[tuple[float, float, int]], seed: int) -> None:
    """Ask until it is time to stop; record when, how long it took, and of which release the answer was."""
    random = np.random.default_rng(seed)
    with GrpcRunner(grpc_url, NAME) as runner:
        while not stop():
            row = int(random.integers(0, 40))
            started = time.monotonic()
            try:
                added = float(runner.infer(_feed(row))["z"][0, 0]) - 1001 * row
                found = int(added // 111) if added % 111 == 0 else MIXED
            except (InferenceError, ServerError) as error:
                print(error.message, file=sys.stderr, flush=True)
                found = FAILED
            records.append((started, time.monotonic() - started, found))


def client(grpc_url: str, clients: int, file: Path) -> None:
    """Ask by so many threads until the standard input ends, and write the records down."""
    over = threading.Event()
    records: list[list[tuple[float, float, int]]] = [[] for _ in range(clients)]
    threads = [
        threading.Thread(target=asked, args=(grpc_url, over.is_set, records[seed], seed)) for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    while not all(records) and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    print("all of them ask", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    np.save(file, np.array([one for some in records for one in some]))


@dataclass
class Load:
    """Clients that ask in a process of their own; their records when they have stopped: start, seconds, release."""

    records: np.ndarray

    def count(self, what: int) -> int:
        """Return how many requests came to something."""
        return int((self.records[:, 2] == what).sum())

    def p99_ms(self, windows: Sequence[tuple[float, float]]) -> float:
        """Return the 99th percentile of requests that were under way within some windows of time."""
        start, end = self.records[:, 0], self.records[:, 0] + self.records[:, 1]
        within = np.zeros(len(start), bool)
        for since, until in windows:
            within |= (start < until) & (end > since)
        return float(np.percentile(self.records[within, 1], 99)) * 1000


@contextlib.contextmanager
def load(server: Server, clients: int, folder: Path) -> Iterator[Load]:
    """Ask a server by so many clients, all of them before the block and until its end; the records are there after it.

    Raises:
        RuntimeError: If they do not ask.
    """
    file, found = folder / "records.npy", Load(np.zeros((0, 3)))
    command = [sys.executable, __file__, "--client", server.grpc_url, str(file), "--clients", str(clients)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError("the clients ended before they asked")
            yield found
        finally:
            process.stdin.close()
            process.wait(120)
    found.records = np.load(file)


@contextlib.contextmanager
def serving(first: Path, folder: Path, *, cached: bool = False) -> Iterator[Server]:
    """Serve a release so that others can be promoted."""
    with triton_server.start(
        [first], log=folder / "triton.log", model_control="explicit", load=("*",), swap=folder / "serving",
        response_cache_bytes=2**20 if cached else 0,
    ) as server:  # fmt: skip
        yield server


def swapped(server: Server, releases: Sequence[Path], *, drain_s: float = 1.0) -> list[tuple[float, float]]:
    """Promote releases one after the other; return the windows of time in which that was."""
    (folder,) = server.repositories
    windows = []
    for one in releases:
        started = time.monotonic()
        promotion = promote(server, folder, examined(one), drain_s=drain_s)
        assert promotion.changed, one
        windows.append((started, time.monotonic()))
    return windows


def replaced_naively(server: Server, folder: Path, releases: Sequence[Path]) -> None:
    """Replace the models' files under their names and load them again, one by one."""
    for one in releases:
        for model in (f"{NAME}.left", f"{NAME}.right", f"{NAME}.head"):
            written = folder / model / "1" / "model.new"
            shutil.copyfile(one / model / "1" / "model.onnx", written)
            written.replace(written.with_name("model.onnx"))
            server.load(model)
        time.sleep(0.3)


def naive_repository(first: Path, folder: Path) -> Path:
    """Copy a release as people write repositories by hand: steps take the newest version."""
    shutil.copytree(first, folder)
    (folder / "manifest.json").unlink()
    config = folder / NAME / "config.pbtxt"
    config.write_text(config.read_text().replace("model_version: 1", "model_version: -1"))
    return folder


@dataclass(frozen=True)
class Figures:
    """What a run came to."""

    swaps: int
    requests: int
    failed: int
    mixed: int
    steady_p99_ms: float
    swap_p99_ms: float
    promotion_s: float
    naive_requests: int
    naive_mixed: int
    naive_failed: int

    @property
    def ratio(self) -> float:
        """The 99th percentile during promotions over the steady one."""
        return self.swap_p99_ms / self.steady_p99_ms


def run(
    swaps: int, clients: int, folder: Path, *, cached: bool, steady_s: float, tell: Callable[[str], None]
) -> Figures:
    """Measure; ``swaps`` there and as many back."""
    first, second = (release(folder / "published", number, cached=cached) for number in (1, 2))
    with serving(first, folder, cached=cached) as server, load(server, clients, folder) as asking:
        since = time.monotonic()
        time.sleep(steady_s)
        steady = (since, time.monotonic())
        tell(f"{swaps} swaps and {swaps} rollbacks")
        windows = swapped(server, [second, first] * swaps, drain_s=0.3)
    naive = naive_repository(first, folder / "naive")
    with (
        triton_server.start([naive], log=folder / "naive.log", model_control="explicit", load=("*",)) as server,
        load(server, clients, folder) as naively,
    ):
        tell("the naive way")
        time.sleep(1)
        replaced_naively(server, naive, [second, first] * 3)
    return Figures(
        swaps=swaps,
        requests=len(asking.records),
        failed=asking.count(FAILED),
        mixed=asking.count(MIXED),
        steady_p99_ms=asking.p99_ms([steady]),
        swap_p99_ms=asking.p99_ms(windows),
        promotion_s=float(np.median([end - start for start, end in windows])),
        naive_requests=len(naively.records),
        naive_mixed=naively.count(MIXED),
        naive_failed=naively.count(FAILED),
    )


def main() -> int:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--swaps", type=int, default=20)
    arguments.add_argument("--clients", type=int, default=8)
    arguments.add_argument("--steady", type=float, default=20.0, help="Seconds without swaps.")
    arguments.add_argument("--cached", action="store_true", help="With a response cache.")
    arguments.add_argument("--least", type=int, default=20_000, help="Requests that must be asked.")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.client:
        client(given.client[0], given.clients, Path(given.client[1]))
        return 0
    with tempfile.TemporaryDirectory(prefix="hot-swap-") as folder:
        figures = run(
            given.swaps, given.clients, Path(folder), cached=given.cached, steady_s=given.steady,
            tell=lambda line: print(line, flush=True),
        )  # fmt: skip
    fields = {**figures.__dict__, "ratio": figures.ratio, "clients": given.clients, "cached": given.cached}
    fields["hardware"] = this_hardware().__dict__
    print(json.dumps(fields, indent=2, default=str))
    if given.json:
        given.json.write_text(json.dumps(fields, indent=2, default=str) + "\n")
    kept = figures.failed == figures.mixed == 0 and figures.requests >= given.least and figures.naive_mixed > 0
    return 0 if kept and figures.ratio <= 3 else 1


if __name__ == "__main__":
    sys.exit(main())

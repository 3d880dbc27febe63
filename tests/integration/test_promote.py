"""Releases swapped on a real Triton: under load, and with everything that can go wrong on the way."""

from __future__ import annotations

import errno
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import living_processes
import onnx
import pytest
from served_gateway import ADMIN, ASKING, CLIENT, gateway
from user_view import PROGRAM, read_until, started, wait_until

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import (
    EnvironmentUnfitError,
    InconclusiveError,
    MmdeployError,
    PromotionError,
    ServerError,
    StoreError,
    UsageError,
)
from mmdeploy.rollout import server_folder
from mmdeploy.rollout.canary import Canary, Limits
from mmdeploy.rollout.generation import plain_name
from mmdeploy.rollout.promote import examined, promote
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.config import parse
from mmdeploy.triton.control_key import ENVIRONMENT, HEADER, ControlKey
from mmdeploy.triton.golden import GOLDEN
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.probe import loaded_models
from mmdeploy.triton.repository import activate
from mmdeploy.triton.server import Server, attach
from mmdeploy.triton.staging import write_manifest

pytestmark = [pytest.mark.triton, pytest.mark.slow]

BENCHMARK = Path(__file__).parents[2] / "benchmarks/hot_swap.py"
SPEC = importlib.util.spec_from_file_location("hot_swap", BENCHMARK)
assert SPEC is not None and SPEC.loader is not None
swap: Any = sys.modules.setdefault("hot_swap", importlib.util.module_from_spec(SPEC))
SPEC.loader.exec_module(swap)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where releases 1 and 2 are published."""
    folder = tmp_path_factory.mktemp("published")
    for number in (1, 2):
        swap.release(folder, number)
    activate(folder, swap.NAME, release_of(folder, 1).name)
    return folder


def release_of(root: Path, number: int) -> Path:
    return root / ".releases" / swap.NAME / f"release-{number}"


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with swap.serving(release_of(root, 1), tmp_path_factory.mktemp("serving"), cached=True) as running:
        yield running
        kill_triton(running.pid)


@pytest.fixture
def folder(server: Server, root: Path) -> Path:
    """The folder that the server serves from, release 1."""
    (found,) = server.repositories
    promoted(server, found, release_of(root, 1))
    return found


def kill_triton(parent: int | None) -> None:
    """Kill the server somewhere below a process; its supervisor cleans up, in no time."""
    living_processes.kill(living_processes.servers(parent))


@contextmanager
def ending_at_once(server: Server) -> Iterator[Server]:
    """Stop a server, without waiting until it has shut down by itself."""
    with server:
        yield server
        kill_triton(server.pid)


def promoted(server: Server, folder: Path, release: Path, **options: Any) -> Any:
    return promote(server, folder, examined(release), drain_s=0.1, **options)


def served(server: Server) -> int:
    """Return the number of the release that serves; every part must be of it."""
    with server.runner(swap.NAME) as runner:
        added = [float(runner.infer(swap._feed(row))["z"][0, 0]) - 1001 * row for row in range(4)]
    assert set(added) in ({111.0}, {222.0}), added
    return int(added[0] // 111)


def state(server: Server, folder: Path) -> tuple[Any, ...]:
    """Return everything that a promotion could change."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(".lock")
    }
    return served(server), loaded_models(server.http_url), files


def changed(root: Path, folder: Path, *, manifest: bool = True) -> Iterator[Path]:
    """Copy release 2, to be changed; what was changed is in its manifest, as if it had been built so."""
    copy = folder / ".releases" / swap.NAME / "changed"
    shutil.copytree(release_of(root, 2), copy)
    yield copy
    if manifest:
        write_manifest(copy, swap.NAME)


def without_a_part(release: Path) -> None:
    shutil.rmtree(release / f"{swap.NAME}.left")


def corrupt(release: Path) -> None:
    graph = release / f"{swap.NAME}.right" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-20])


def of_other_dims(release: Path) -> None:
    config = release / f"{swap.NAME}.head" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 4", "dims: 5", 1))


def of_another_rank(release: Path) -> None:
    path = release / f"{swap.NAME}.head" / "1" / "model.onnx"
    text = swap.GRAPHS["head"].replace("[N,4]", "[N,4,1]") % "200.0"
    onnx.save(onnx.parser.parse_model(f"{swap.HEAD} {text}"), path)


def of_other_answers(release: Path) -> None:
    shutil.copyfile(release.parents[2] / "other.npz", release / GOLDEN)


def without_its_golden(release: Path) -> None:
    (release / GOLDEN).write_bytes(b"no archive")


def that_ends_at_once(release: Path) -> None:
    path = release / f"{swap.NAME}.head" / "1" / "model.onnx"
    graph = "g (float[N,4] p, float[N,4] q) => (float[N,4] z) { s = Add(p, q) z = NoSuchOperator(s) }"
    path.write_bytes(onnx.parser.parse_model(f"{swap.HEAD} {graph}").SerializeToString())


BAD = {
    without_a_part: (MmdeployError, "numbers.left"),
    corrupt: (PromotionError, "model.onnx"),
    of_other_dims: (PromotionError, "dims|shape"),
    of_another_rank: (PromotionError, "rank|dims|shape"),
    of_other_answers: (PromotionError, r"does not answer as it did in its build.*\n  sample 0: output 'z' is"),
    without_its_golden: (StoreError, "golden requests cannot be read"),
    that_ends_at_once: (PromotionError, "NoSuchOperator"),
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_release_never_touches_what_serves(
    server: Server, folder: Path, root: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    before = state(server, folder)
    shutil.copyfile(release_of(root, 1) / GOLDEN, tmp_path / "other.npz")
    for copy in changed(root, tmp_path):
        spoil(copy)
    kind, words = BAD[spoil]
    with pytest.raises(kind, match=words) as told:
        promoted(server, folder, copy)
    assert not re.search("At:|UNAVAILABLE|HTTP [45]", told.value.message), "Triton's words around the reason"
    assert state(server, folder) == before
    assert before[0] == 1


def test_what_was_changed_after_it_was_published_is_refused(
    server: Server, folder: Path, root: Path, tmp_path: Path
) -> None:
    before = state(server, folder)
    for spoil in (corrupt, without_a_part, of_other_dims):
        shutil.rmtree(tmp_path / ".releases", ignore_errors=True)
        for copy in changed(root, tmp_path, manifest=False):
            spoil(copy)
        with pytest.raises(StoreError, match="is not what was published"):
            promoted(server, folder, copy)
    with pytest.raises(StoreError, match="is no release: it has no manifest"):
        promoted(server, folder, copy.parent)
    assert state(server, folder) == before


def test_there_and_back_leaves_what_was_and_equal_parts_are_loaded_once(
    server: Server, folder: Path, root: Path, tmp_path: Path
) -> None:
    before = state(server, folder)
    there = promoted(server, folder, release_of(root, 2))
    assert (there.before, there.checked, len(there.loaded), len(there.unloaded)) == (release_of(root, 1).name, 4, 3, 3)
    assert served(server) == 2
    assert not promoted(server, folder, release_of(root, 2)).changed
    half = swap.release(tmp_path, 2, parts=("left", "right"))
    assert promoted(server, folder, half).loaded == (
        next(name for name in loaded_models(server.http_url) if ".head." in name),
    )
    back = promoted(server, folder, release_of(root, 1))
    assert (len(back.loaded), len(back.reused)) == (2, 1)
    assert served(server) == before[0] == 1
    assert sorted(map(plain_name, loaded_models(server.http_url))) == sorted(map(plain_name, before[1]))
    assert server.heal() == (), "what was promoted is probed with samples of its own"


STAGES = ("loading numbers.left", "loading numbers.head", "asking the candidate", "moving numbers")


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_takes_everything_back(server: Server, folder: Path, root: Path, stage: str) -> None:
    before = state(server, folder)

    def told(said: str) -> None:
        if said.startswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        promoted(server, folder, release_of(root, 2), told=told)
    assert state(server, folder) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from mmdeploy.rollout.promote import examined, promote
from mmdeploy.triton.control_key import known_key
from mmdeploy.triton.server import Server, attach
url, folder, release, stage = sys.argv[1:]
def told(said):
    if said == stage or stage == "waiting" and said.startswith(stage):
        os.kill(os.getpid(), signal.SIGKILL)
load = Server.load
def loading(self, model, **options):
    told(f"load {model}")
    load(self, model, **options)
    told(f"loaded {model}")
Server.load = loading
promote(attach(url, http_url=url, key=known_key(None)), Path(folder), examined(Path(release)), told=told, drain_s=0.1)
"""
# "load numbers" is between the ensemble's new configuration and the moment that the server hears of it.
KILLS = {"asking the candidate golden requests": 1, "load numbers": 1, "loaded numbers": 2, "waiting": 2}


def on_disk(folder: Path) -> set[str]:
    """Return the models that the ensemble asks for when the server starts again."""
    config = parse((folder / swap.NAME / "config.pbtxt").read_text(), "")
    return {step.model_name for step in config.ensemble_scheduling.step}


@pytest.mark.parametrize("stage", KILLS)
def test_a_kill_leaves_one_release_whole_and_the_next_promotion_cleans_up(
    server: Server, folder: Path, root: Path, tmp_path: Path, stage: str
) -> None:
    before = state(server, folder)
    for bad in changed(root, tmp_path):
        shutil.copyfile(release_of(root, 1) / GOLDEN, bad / GOLDEN)
    arguments = [server.http_url, str(folder), str(release_of(root, 2)), stage]
    environment = os.environ | {"MMDEPLOY_CONTROL_KEY": server.control_headers["mmdeploy-control-key"]}
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert served(server) == KILLS[stage]
    with pytest.raises(PromotionError, match="does not answer as it did"):
        promoted(server, folder, bad)
    assert served(server) == KILLS[stage]
    assert on_disk(folder) <= {path.name for path in folder.iterdir()}, "it is whole after a restart, too"
    promoted(server, folder, release_of(root, 1))
    loaded = loaded_models(server.http_url)
    assert (served(server), [*map(plain_name, loaded)]) == (1, [*map(plain_name, before[1])])
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(loaded)


def test_a_kill_of_the_first_promotion_leaves_nothing_of_what_the_server_was_started_with(
    root: Path, tmp_path: Path
) -> None:
    with swap.serving(release_of(root, 1), tmp_path) as running:
        (folder,) = running.repositories
        arguments = [running.http_url, str(folder), str(release_of(root, 2)), f"loaded {swap.NAME}"]
        environment = os.environ | {ENVIRONMENT: running.control_headers[HEADER]}
        ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False, timeout=300)
        assert (ended.returncode, served(running)) == (-signal.SIGKILL, 2)
        promoted(running, folder, release_of(root, 2))
        loaded = loaded_models(running.http_url)
        assert [*map(plain_name, loaded)] == ["numbers", "numbers.head", "numbers.left", "numbers.right"]
        assert not {"numbers.head", "numbers.left"} & set(loaded), "started with; they serve no more"
        assert {path.name for path in folder.iterdir() if path.is_dir()} == set(loaded)
        kill_triton(running.pid)


def test_a_full_disk_changes_nothing(server: Server, folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(server, folder)
    copied: list[Path] = []

    def full(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        shutil.copyfile(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(server_folder, "copy_file", full)
        with pytest.raises(StoreError, match="what serves still serves: No space left") as told:
            promoted(server, folder, release_of(root, 2))
    assert told.value.hint == "free some space on that disk"
    assert state(server, folder) == before
    monkeypatch.setattr(server_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StoreError, match=r"has 0 MiB free, numbers\.left\.\w+ needs 1"):
        promoted(server, folder, release_of(root, 2))
    assert state(server, folder) == before


def test_one_promotion_at_a_time(server: Server, folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(server, folder)
    place = server_folder.ServerFolder(folder, swap.NAME)
    locked = type(place).locked
    with locked(place):
        monkeypatch.setattr(type(place), "locked", lambda self: locked(self, wait_s=0.2))
        with pytest.raises(
            server_folder.PromotionUnderWayError, match=r"another promotion of numbers in .* is under way"
        ):
            promoted(server, folder, release_of(root, 2))
    assert state(server, folder) == before


def test_a_wrong_key_a_wrong_folder_and_no_key(server: Server, folder: Path, root: Path, tmp_path: Path) -> None:
    before = state(server, folder)
    for key, words in ((None, "key is missing"), (ControlKey(), "key is not the server's")):
        stranger = attach(server.http_url, http_url=server.http_url, key=key)
        with pytest.raises(UsageError, match=f"{words}; nothing was changed"):
            promoted(stranger, folder, release_of(root, 2))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(PromotionError, match="does not serve the folder that it was put into"):
        promoted(server, elsewhere, release_of(root, 2))
    assert not [path for path in elsewhere.iterdir() if path.is_dir()]
    for wrong, words in ((tmp_path / "gone", "is not a folder"), (release_of(root, 1), "a published release")):
        with pytest.raises(UsageError, match=words):
            promoted(server, wrong, release_of(root, 2))
    assert state(server, folder) == before


def test_without_model_control_nothing_is_promoted_and_an_empty_server_takes_its_first_release(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(release_of(root, 1), copy)
    with ending_at_once(triton_server.start([copy], log=tmp_path / "none.log")) as fixed:
        before = state(fixed, copy)
        with pytest.raises(EnvironmentUnfitError, match="serves without explicit model control; nothing was changed"):
            promoted(fixed, copy, release_of(root, 2))
        # neither its folder nor its key, which it wants all the same, is asked for
        for key in ({}, {ENVIRONMENT: fixed.control_headers[HEADER]}, {ENVIRONMENT: "another-key-of-the-tests"}):
            with monkeypatch.context() as patched:
                for name, value in key.items():
                    patched.setenv(name, value)
                assert run(commands, ["promote", fixed.http_url, str(root), "--workdir", str(tmp_path)]) == 4
            told = (
                f"error: {fixed.http_url} serves without explicit model control; nothing was changed\nhint: start it "
            )
            assert capsys.readouterr().err.startswith(told)
        assert state(fixed, copy) == before
    empty = tmp_path / "volume"
    empty.mkdir()
    start = functools.partial(triton_server.start, [empty], model_control="explicit")
    with ending_at_once(start(log=tmp_path / "empty.log")) as running:
        for bad in changed(root, tmp_path):
            corrupt(bad)
        with pytest.raises(PromotionError):
            promoted(running, empty, bad)
        assert (loaded_models(running.http_url), [path for path in empty.iterdir() if path.is_dir()]) == ((), [])
        assert promoted(running, empty, release_of(root, 2)).before is None
        assert served(running) == 2
    with ending_at_once(start(log=tmp_path / "again.log", load=("*",))) as restarted:
        assert served(restarted) == 2


def test_a_server_that_is_killed_on_the_way(root: Path, tmp_path: Path) -> None:
    with swap.serving(release_of(root, 1), tmp_path) as running:
        (folder,) = running.repositories
        config = (folder / swap.NAME / "config.pbtxt").read_bytes()
        models = {path.name for path in folder.iterdir() if path.is_dir()}

        def told(said: str) -> None:
            if said.startswith("asking"):
                family = living_processes.below(running.pid)
                living_processes.kill(family)
                living_processes.assert_ended(family)

        with pytest.raises(ServerError, match="does not answer"):
            promoted(running, folder, release_of(root, 2), told=told)
        assert {path.name for path in folder.iterdir() if path.is_dir()} == models
        assert (folder / swap.NAME / "config.pbtxt").read_bytes() == config


def test_under_load_none_fails_and_each_answer_is_of_one_release(
    server: Server, folder: Path, root: Path, tmp_path: Path
) -> None:
    """Cached, so that an answer of an old release would come from there, too; the long form is the benchmark.

    Last, files are replaced under their names and loaded again, the naive way: the clients must see mixed answers.
    """
    first, second = (swap.release(tmp_path / "published", number, cached=True) for number in (1, 2))
    promoted(server, folder, first)
    with swap.load(server, 4, tmp_path) as asking:
        for release in (second, first):
            await_answers(server)
            swap.swapped(server, [release], drain_s=0.2)
        await_answers(server)
        promoted(server, folder, release_of(root, 2))
        before, until = state(server, folder), time.monotonic()
        for number in (1, 2):
            replaced_by_name(server, folder, release_of(root, number))
        assert state(server, folder) == before
    ended = asking.records[:, 0] + asking.records[:, 1] < until
    whole, naive = (replace(asking, records=asking.records[some]) for some in (ended, ~ended))
    assert (whole.count(swap.FAILED), whole.count(swap.MIXED)) == (0, 0)
    assert min(whole.count(1), whole.count(2)) > 50
    assert naive.count(swap.MIXED) > 0, "the harness sees nothing"


def replaced_by_name(server: Server, folder: Path, release: Path) -> None:
    """Replace the files of models under their names, which say something else, and load them again one by one."""
    for part in swap.SHARE:
        (model,) = folder.glob(f"{swap.NAME}.{part}.*")
        written = model / "1" / "model.new"
        shutil.copyfile(release / f"{swap.NAME}.{part}" / "1" / "model.onnx", written)
        written.replace(model / "1" / "model.onnx")
        server.load(model.name)
        await_answers(server)


def await_answers(server: Server, number: int = 60) -> None:
    """Wait until the ensemble has answered so many requests more."""

    def answered() -> int:
        stats = ask_json(f"{server.http_url}/v2/models/{swap.NAME}/stats")["model_stats"]
        return sum(int(one["inference_stats"]["success"]["count"]) for one in stats)

    wanted = answered() + number
    wait_until(lambda: answered() >= wanted, f"{number} answers")


def killed(process: subprocess.Popen[str]) -> None:
    """Kill the Triton of an ``mmdeploy serve``, and wait until that has started it again."""
    kill_triton(process.pid)
    complained(process, "is ready again")


def complained(process: subprocess.Popen[str], words: str) -> None:
    """Read standard error up to a line that holds ``words``."""
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"{words!r} was never said"


def test_a_server_that_follows_swaps_to_what_becomes_live_and_serves_it_when_it_is_started_again(
    tmp_path: Path, root: Path
) -> None:
    published, key = tmp_path / "published", ControlKey()
    shutil.copytree(root, published, symlinks=True)
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    environment = {ENVIRONMENT: key.secret}
    process = started("serve", published, "--follow", *ports, cwd=tmp_path, environment=environment)
    try:
        said = read_until(process, "Ctrl-C stops it.")
        (url,) = (line.split()[1] for line in said if line.startswith("  HTTP"))
        (grpc,) = (line.split()[1] for line in said if line.startswith("  gRPC"))
        running = attach(grpc, http_url=url, key=key)
        assert served(running) == 1
        activate(published, swap.NAME, release_of(published, 2).name)
        said = read_until(process, "the ensemble was moved")
        assert f"numbers: {release_of(root, 2).name} serves, {release_of(root, 1).name} no more\n" in said
        assert served(running) == 2
        killed(process)
        assert served(running) == 2
        (folder,) = (tmp_path / ".mmdeploy" / "serve").glob("*/0")
        promoted(running, folder, release_of(published, 1))  # from outside, what is live notwithstanding
        killed(process)
        assert served(running) == 1
        for copy in changed(published, published):
            shutil.copyfile(release_of(root, 1) / GOLDEN, copy / GOLDEN)
        activate(published, swap.NAME, "changed")
        complained(process, "not promoted: release changed does not answer as it did in its build")
        time.sleep(1.2)  # it looks twice a second
        assert served(running) == 1
        activate(published, swap.NAME, release_of(published, 2).name)
        read_until(process, "the ensemble was moved")
        assert served(running) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "not promoted" not in errors, "it is told once"


def test_a_release_is_tried_on_a_share_of_live_traffic(
    server: Server,
    folder: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = state(server, folder)
    keys = {"MMDEPLOY_GATEWAY_ADMIN_KEY": ADMIN, "MMDEPLOY_GATEWAY_KEYS": CLIENT}
    over = threading.Event()

    def asking(url: str) -> None:
        with httpx.Client(base_url=url, headers=ASKING, trust_env=False, timeout=60) as client:
            while not over.is_set():
                answer = client.post("/infer", json={"inputs": {"a": [1.0] * 4, "b": [2.0] * 4}})
                assert answer.status_code == 200, answer.text

    with gateway(
        "nowhere", "--url", server.grpc_url, "--http-url", server.http_url, folder=tmp_path, environment=keys
    ) as running:
        trial = Canary(running.url, ADMIN, swap.NAME, 0.5, shadow=False, seconds=0.6, limits=Limits(), told=print)
        with pytest.raises(InconclusiveError, match="0 requests to the candidate, 100 are needed"):
            promoted(server, folder, release_of(root, 2), trial=trial)
        assert state(server, folder) == before
        with pytest.raises(UsageError, match="the gateway refuses"):
            promoted(server, folder, release_of(root, 2), trial=replace(trial, key="x" * 20))
        assert state(server, folder) == before
        threads = [threading.Thread(target=asking, args=(running.url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            monkeypatch.setenv(ENVIRONMENT, server.control_headers[HEADER])
            monkeypatch.setenv("MMDEPLOY_GATEWAY_ADMIN_KEY", ADMIN)
            words = ["--release", release_of(root, 2).name, "--server-repository", folder, "--drain", 0.1]
            words += ["--canary", 0.5, "--gateway", running.url, "--max-failures", 0.06, "--max-p95-ratio", 1000]
            code = run(commands, ["promote", server.http_url, str(root), *map(str, words)])
        finally:
            over.set()
            for thread in threads:
                thread.join()
    told = capsys.readouterr().out
    assert (code, served(server)) == (0, 2), told
    assert re.search(r"requests: failures more than live .* \(<= 0\.06\); p95 over live's .* \(<= 1000\)\n", told)


def test_promote_as_a_user_types_it(
    server: Server, folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "control.key"
    key.write_text(server.control_headers[HEADER])
    key.chmod(0o600)
    given = ("--control-key-file", key, "--server-repository", folder, "--drain", "0.1")

    def typed(*arguments: object) -> tuple[int, str, str]:
        code = run(commands, ["promote", server.http_url, *map(str, arguments)])
        return code, *capsys.readouterr()

    code, _, told = typed(root, "--control-key-file", key, "--workdir", tmp_path)
    assert code == 2 and "it is not known from which folder" in told
    command = [*PROGRAM, "promote", server.http_url, root / swap.NAME, "--release", release_of(root, 2).name, *given]
    there = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert there.returncode == 0, there.stderr
    assert "4 golden requests answered as in the build" in there.stdout
    assert served(server) == 2
    code, said, told = typed(root, *given, "--json")
    assert (code, json.loads(said)["checked"]) == (0, 4), told
    assert served(server) == 1
    code, _, told = typed(root, "--release", "release-3", *given)
    assert code == 2 and "did you mean 'release-2'?" in told
    code, _, told = typed(root, "--server-repository", folder)
    assert code == 2 and "the control key is missing" in told

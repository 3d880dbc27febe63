"""Somebody sets the time of a machine that serves: by hours and by weeks, forward and back."""

import mmap
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_weather import publish_cached, serving

from mmdeploy.triton.http import ask_json

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from soak import Served, Weather  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

HOUR = 3600
JUMPS = (HOUR, -2 * HOUR, 30 * 24 * HOUR, 0)


@pytest.fixture(scope="module")
def jump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], None]]:
    """Set the wall clock of what is started from now on so many seconds away from that of the machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler of Linux makes the clock that jumps")
    folder = tmp_path_factory.mktemp("clock")
    library, file = folder / "jumping_clock.so", folder / "seconds"
    source = REPOSITORY / "benchmarks" / "jumping_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-pthread"], check=True)
    file.write_bytes(bytes(8))
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 8) as memory, pytest.MonkeyPatch.context() as patched:
        patched.setenv("LD_PRELOAD", str(library))
        patched.setenv("JUMPING_CLOCK", str(file))
        yield lambda seconds: memory.__setitem__(slice(0, 8), struct.pack("=q", seconds))


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path, jump: object) -> Iterator[Weather]:
    """The tiny recipe behind ``mmdeploy serve``, with a response cache, on that clock; its clients are not."""
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("LD_PRELOAD")
        publish_cached(root, shared_workdir)
    with serving(root, tmp_path_factory.mktemp("serve")) as weather:
        yield weather


def last_asked_s(served: Served) -> float:
    """Return when the server was asked last, by its own clock."""
    (one,) = ask_json(f"{served.http}/v2/models/two_towers/stats")["model_stats"]
    return float(one["last_inference"]) / 1e3


def test_a_clock_that_jumps_costs_nobody_an_answer(weather: Weather, jump: Callable[[int], None]) -> None:
    clients = weather.clients
    for seconds in JUMPS:
        before = clients.count
        jump(seconds)
        clients.await_answers(time.monotonic())
        if seconds > 0:  # the latest that it was asked does not go back
            assert abs(last_asked_s(weather.served) - time.time() - seconds) < HOUR / 2, "the server's clock has jumped"
        clients.stand(1.0)
        clients.await_more(before + 20)
    assert (clients.wrong, clients.failed, weather.served.said) == ([], [], [])


@pytest.mark.parametrize("seconds", [-2 * HOUR, 30 * 24 * HOUR])
def test_what_dies_behind_a_jump_comes_back(weather: Weather, jump: Callable[[int], None], seconds: int) -> None:
    jump(seconds)
    weather.kill_stub(0)
    jump(0)
    weather.kill_server()
    assert weather.clients.wrong == []
    assert all(weather.recovered_s.values())

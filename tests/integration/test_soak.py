"""Bad weather for ``mmdeploy serve``, in short; `benchmarks/soak.py` is the same at length, with figures."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_weather import publish_cached, serving

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import malformed_requests  # noqa: E402
from soak import FATAL, Weather, drip, slow_clients  # noqa: E402

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

REQUESTS = 2_000


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path) -> Iterator[Weather]:
    """The tiny recipe behind ``mmdeploy serve``, with a small response cache, and clients that ask it."""
    root = tmp_path_factory.mktemp("published")
    publish_cached(root, shared_workdir)
    with serving(root, tmp_path_factory.mktemp("serve")) as weather:
        yield weather


def test_malformed_requests_slow_clients_and_a_full_cache_cost_nobody_an_answer(weather: Weather) -> None:
    clients = weather.clients
    weather.warm_up(800)
    with slow_clients(weather.served, weather.model, 60) as connections:
        weather.malformed(REQUESTS // 2, seed=1)
        drip(connections)
        weather.fill_cache(2_000)
        weather.malformed(REQUESTS // 2, seed=1000)
    assert clients.wrong == []
    assert clients.failed == []
    assert clients.count > 200, "they were asked meanwhile"
    assert weather.served.said == [], "nothing had to be healed"
    assert sum(weather.answers.values()) == REQUESTS
    sizes = [size for _, size in weather.memory]
    half = len(sizes) // 2
    assert np.mean(sizes[half:]) < 1.1 * np.mean(sizes[:half]) + 16, sizes


def test_what_kills_is_over_soon(weather: Weather) -> None:
    """What `FATAL` holds crashes the wheel's server: it comes back, where nothing in front of it refuses that.

    In how many seconds is the benchmark's to say.
    """
    weather.kill_stub(1)
    weather.kill_server()
    for what in FATAL:
        weather.crash(what)
    assert weather.clients.wrong == []
    assert len(weather.recovered_s) == 4
    assert [line for line in weather.served.said if "loaded again" in line]
    assert len([line for line in weather.served.said if "is ready again" in line]) == 3


def test_requests_are_the_same_for_the_same_seed(weather: Weather) -> None:
    first, again, other = (
        list(itertools.islice(malformed_requests.requests(weather.model, seed), 200)) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert {request.kind for request in first} == set(malformed_requests.KINDS)

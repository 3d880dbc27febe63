"""A pytest plug-in: a served ensemble for tests of your own, asked as its clients ask it.

In ``conftest.py``::

    pytest_plugins = ["mmdeploy.testing.pytest_plugin"]

and in a test::

    def test_a_cat_is_a_cat(mmdeploy_ensemble):
        answers = mmdeploy_ensemble("model_repository/pets").infer({"photo": cat})
        assert answers["labels"][0, 0] == b"cat"

A server is started at the first use of a repository, on loopback and free ports, and stopped when the session ends; its
log lies in pytest's temporary folder. A release is compared with its manifest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.outer_ensembles import outer_ensembles
from mmdeploy.triton.repository import require_intact, resolve
from mmdeploy.triton.response_cache import settings_of

Serve = Callable[..., GrpcRunner]


@pytest.fixture(scope="session")
def mmdeploy_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Give a function that serves a model repository and returns a client of its ensemble.

    ``mmdeploy_ensemble(repository, name=None)``: the path of a repository, a release or a folder of published ones, and
    the name of a model in it; by default its only ensemble. The client's ``infer`` takes arrays by input, batch first,
    and returns arrays by output; ``inputs`` and ``outputs`` say which.
    """
    servers: dict[Path, triton_server.Server] = {}
    clients: dict[tuple[Path, str], GrpcRunner] = {}
    with ExitStack() as stack:

        def serve(repository: str | Path = "model_repository", name: str | None = None) -> GrpcRunner:
            place = Path(repository).resolve()
            repositories = resolve(place)
            model = name or _only_ensemble(repositories)
            if place not in servers:
                require_intact(repositories, sweep=True)
                log = tmp_path_factory.mktemp("mmdeploy") / "triton.log"
                cache = settings_of(repositories).bytes
                started = triton_server.start(repositories, log=log, response_cache_bytes=cache)
                servers[place] = stack.enter_context(started)
            if (place, model) not in clients:
                clients[place, model] = GrpcRunner(servers[place].grpc_url, model)
                stack.callback(clients[place, model].close)
            return clients[place, model]

        yield serve


def _only_ensemble(repositories: list[Path]) -> str:
    """Return the name of the only ensemble.

    Raises:
        UsageError: If there is none, or several.
    """
    names = [str(config.name) for config in outer_ensembles(repositories)]
    if len(names) != 1:
        raise UsageError(f"there are {len(names)} ensembles ({', '.join(names) or 'none'}): name the one to ask")
    return names[0]

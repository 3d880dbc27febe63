"""``mmdeploy serve``: serve a model repository with Triton on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.core.errors import EXIT_INTERRUPTED, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.triton.server import Server

_WATCH_S = 0.5
_PROBE_EVERY_S = 10.0


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is everybody's.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0 for a free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True, help="0: a free one.")
@click.option("--server", "binary", type=click.Path(path_type=Path), help="The tritonserver binary to take.")
@click.option("--url", help="Do not start one: ask the Triton that runs at this HTTP URL.")
@click.option(
    "--cache-mib", type=click.IntRange(0), default=64, show_default=True, help="Response cache that models share."
)
@workdir_option
def command(
    *,
    repository: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    binary: Path | None,
    url: str | None,
    cache_mib: int,
    workdir: Path,
) -> int:
    """Serve a model repository with Triton on this machine until Ctrl-C.

    REPOSITORY is a Triton model repository, or a folder with published ensembles (model_repository by default). A
    release is compared with its manifest first: what was changed since is not served. With --url it tells what to ask:
    the sample that each release knows of its models.

    \b
    Example:
      mmdeploy serve
      mmdeploy serve model_repository/spoken_digits --http-port 0 --grpc-port 0
    """  # noqa: D301
    from mmdeploy.triton import server as triton_server
    from mmdeploy.triton.repository import require_intact, resolve

    if url is not None:
        server = triton_server.attach(url, repositories=_released(repository))
    else:
        repositories = resolve(repository)
        require_intact(repositories)
        server = triton_server.start(
            repositories,
            log=workdir / "serve" / f"triton-{time.strftime('%Y%m%d-%H%M%S')}.log",
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            binary=binary,
            response_cache_bytes=cache_mib * 2**20,
            model_control="explicit",  # a model whose backend died can be loaded again
            load=("*",),
        )
    with server:
        if url is not None:
            _announce(server)
            return EXIT_PASS
        stopped = _stop_signals()  # before it is said that Ctrl-C stops it
        _announce(server)
        return _watch(server, stopped)


def _released(path: Path) -> list[Path]:
    """Return the releases at a path; none where there are none, for a server that runs needs none here."""
    from mmdeploy.triton.repository import resolve

    with contextlib.suppress(UsageError):
        return list(resolve(path))
    return []


def _announce(server: Server) -> None:
    click.echo(f"Triton {server.server_version} is ready: {', '.join(server.probe())}")
    click.echo(f"  gRPC     {server.grpc_url}")
    click.echo(f"  HTTP     {server.http_url}")
    if server.metrics_url:
        click.echo(f"  metrics  {server.metrics_url}")
    if server.log:
        click.echo(f"  log      {server.log}")
        click.echo("Ctrl-C stops it.")


def _stop_signals() -> list[int]:
    """Collect SIGINT and SIGTERM from now on in the list that is returned."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    return received


def _watch(server: Server, stopped: list[int]) -> int:
    """Wait for Ctrl-C or SIGTERM and return the exit code.

    A server that dies meanwhile is an error, a model that dies is loaded again.
    """
    probed = time.monotonic()
    while not stopped:
        server.require_running()
        if time.monotonic() - probed > _PROBE_EVERY_S:
            for model in server.heal():
                click.echo(f"{model} did not answer a probe and was loaded again", err=True)
            probed = time.monotonic()
        time.sleep(_WATCH_S)
    click.echo("stopping")
    return EXIT_INTERRUPTED if stopped[0] == signal.SIGINT else EXIT_PASS

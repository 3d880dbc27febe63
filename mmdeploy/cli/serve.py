"""``mmdeploy serve``: serve a model repository with Triton on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import public_key_option, workdir_option
from mmdeploy.cli.text import counted, printable
from mmdeploy.core.errors import EXIT_INTERRUPTED, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.caching.warm import WarmUp
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
    "--cache-mib",
    type=click.IntRange(0),
    help="Size of the response cache that models share; 0 for none. What the releases ask for by default.",
)
@click.option(
    "--warm-trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask the popular requests of this trace (see mmdeploy cache-plan; it names files) before it counts as ready.",
)
@click.option(
    "--warm-requests", type=click.IntRange(1), default=256, show_default=True, help="How many of them, at most."
)
@public_key_option
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
    cache_mib: int | None,
    warm_trace: Path | None,
    warm_requests: int,
    public_key: Path | None,
    workdir: Path,
) -> int:
    """Serve a model repository with Triton on this machine until Ctrl-C.

    REPOSITORY is a Triton model repository, or a folder with published ensembles (model_repository by default). A
    release is compared with its manifest first: what was changed since is not served, and with --public-key neither is
    what its owner did not sign. With --url it tells what to ask: the sample that each release knows of its models.

    \b
    Example:
      mmdeploy serve
      mmdeploy serve model_repository/spoken_digits --http-port 0 --grpc-port 0
    """  # noqa: D301
    from mmdeploy.caching.warm import warm_up_of
    from mmdeploy.triton import server as triton_server
    from mmdeploy.triton.repository import resolve
    from mmdeploy.triton.response_cache import settings_of

    warmed, held = None, contextlib.ExitStack()
    if url is not None:
        if warm_trace is not None:
            raise click.UsageError("--warm-trace is for a server that is started here, --url for one that runs")
        server = triton_server.attach(url, repositories=_released(repository))
    else:
        repositories = resolve(repository)
        held.enter_context(_trusted(repositories, public_key))
        warmed = None if warm_trace is None else warm_up_of(repositories, warm_trace, most=warm_requests)
        server = triton_server.start(
            repositories,
            log=workdir / "serve" / f"triton-{time.strftime('%Y%m%d-%H%M%S')}.log",
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            binary=binary,
            response_cache_bytes=settings_of(repositories).bytes if cache_mib is None else cache_mib * 2**20,
            model_control="explicit",  # a model whose backend died can be loaded again
            load=("*",),
        )
    with held, server:
        if url is not None:
            _announce(server)
            return EXIT_PASS
        if warmed is not None:
            _warm_up(server, warmed)
        stopped = _stop_signals()  # before it is said that Ctrl-C stops it
        _announce(server)
        return _watch(server, stopped)


@contextlib.contextmanager
def _trusted(repositories: list[Path], public_key: Path | None) -> Iterator[None]:
    """Hold repositories that are what was published, and what the owner of a key signed."""
    from mmdeploy.triton.repository import in_use, require_intact
    from mmdeploy.triton.signing import require_signed

    with in_use(repositories):
        require_intact(repositories, sweep=True)
        if public_key is not None:
            require_signed(repositories, public_key)
        yield


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


def _warm_up(server: Server, warmed: WarmUp) -> None:
    with server.runner(warmed.ensemble) as runner:
        refused = warmed.ask(runner)
    click.echo(f"warmed up {warmed.ensemble} with {counted(len(warmed.requests) - len(refused), 'request')}")
    if warmed.left_out:
        click.echo(f"  {counted(warmed.left_out, 'request')} left out: they name no files", err=True)
    for reason in refused:
        click.echo(f"  refused: {printable(reason)}", err=True)


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

"""``mmdeploy serve``: serve a model repository with Triton on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import control_key_option, public_key_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, printable, promotion_text, wrapped
from mmdeploy.core.errors import EXIT_INTERRUPTED, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.caching.warm import WarmUp
    from mmdeploy.rollout.follow import Follower
    from mmdeploy.triton.server import Server
    from mmdeploy.triton.tending import Tending

_WATCH_S = 0.5


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
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="How often in ten minutes a server that died is started again, before the command ends with its error.",
)
@click.option("--follow", is_flag=True, help="Swap to what is published, or rolled back to, from now on.")
@control_key_option
@public_key_option
@workdir_option
@output_options(quiet="nothing")
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
    restarts: int,
    follow: bool,
    control_key_file: Path | None,
    public_key: Path | None,
    workdir: Path,
    output: Output,
) -> int:
    """Serve a model repository with Triton on this machine until Ctrl-C.

    REPOSITORY is a Triton model repository, or a folder with published ensembles (model_repository by default). A
    release is compared with its manifest first: what was changed since is not served, and with --public-key neither is
    what its owner did not sign. With --url it tells what to ask: the sample that each release knows of its models.

    A model whose process died is loaded again, and a server that died is started again on the same ports; after
    --restarts of that in ten minutes it is given up, with its error and exit code 3.

    Who has the key can load models: mmdeploy promote swaps releases under load, mmdeploy gateway loads what it is told
    to. The key is made for this server and told to nobody, or kept in --control-key-file, which is written if missing.

    \b
    Example:
      mmdeploy serve
      mmdeploy serve model_repository/spoken_digits --http-port 0 --grpc-port 0
    """  # noqa: D301
    from mmdeploy.caching.warm import warm_up_of
    from mmdeploy.triton import server as triton_server
    from mmdeploy.triton.control_key import kept_key
    from mmdeploy.triton.repository import resolve
    from mmdeploy.triton.response_cache import settings_of

    if url is not None:
        return _serves_already(url, repository, warm_trace, output)
    repositories, follows = resolve(repository), _followers(repository, public_key, output) if follow else None
    with contextlib.ExitStack() as held:
        held.enter_context(_trusted(repositories, public_key))
        warmed = None if warm_trace is None else warm_up_of(repositories, warm_trace, most=warm_requests)
        folder = held.enter_context(_folder(workdir))
        server = triton_server.start(
            repositories,
            log=workdir / "serve" / f"triton-{time.strftime('%Y%m%d-%H%M%S')}.log",
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            binary=binary,
            response_cache_bytes=settings_of(repositories).bytes if cache_mib is None else cache_mib * 2**20,
            model_control="explicit",  # models are promoted, and one whose backend died can be loaded again
            load=("*",),
            key=kept_key(control_key_file), swap=folder, grace=True,
        )  # fmt: skip
        held.enter_context(server)
        _warm_up(server, warmed, output)
        require = functools.partial(_require_trusted, repositories, public_key)
        return _looked_after(server, folder, output, restarts=restarts, require=require, follows=follows)


def _looked_after(
    server: Server,
    folder: Path,
    output: Output,
    *,
    restarts: int,
    require: Callable[[], None],
    follows: Callable[[Server, Mapping[str, Path]], Follower] | None,
) -> int:
    """Look after a server until Ctrl-C or SIGTERM; return the exit code."""
    from mmdeploy.triton.tending import Tending

    places = _places(server, folder)
    follower = None if follows is None else follows(server, places)
    stopped = _stop_signals()  # before it is said that Ctrl-C stops it
    tending = Tending(server, restarts=restarts, require=require, stopped=lambda: bool(stopped))
    _announce(server, output)
    return _watch(tending, stopped, places, follower, output)


@contextlib.contextmanager
def _folder(workdir: Path) -> Iterator[Path]:
    """Give a folder to serve from, which is gone when the server is."""
    from mmdeploy.core.temporary import hold_folder

    (workdir / "serve").mkdir(parents=True, exist_ok=True)
    held = hold_folder("serving", str((workdir / "serve").absolute()))
    try:
        yield held.path
    finally:
        held.remove()


def _serves_already(url: str, repository: Path, warm_trace: Path | None, output: Output) -> int:
    """Tell what to ask of a server that runs."""
    from mmdeploy.triton import server as triton_server

    if warm_trace is not None:
        raise click.UsageError("--warm-trace is for a server that is started here, --url for one that runs")
    with triton_server.attach(url, repositories=_released(repository)) as server:
        _announce(server, output)
    return EXIT_PASS


@contextlib.contextmanager
def _trusted(repositories: list[Path], public_key: Path | None) -> Iterator[None]:
    """Hold repositories that are what was published, and what the owner of a key signed."""
    from mmdeploy.triton.repository import in_use

    with in_use(repositories):
        _require_trusted(repositories, public_key)
        yield


def _require_trusted(repositories: list[Path], public_key: Path | None) -> None:
    from mmdeploy.triton.repository import require_intact
    from mmdeploy.triton.signing import require_signed

    require_intact(repositories, sweep=True)
    if public_key is not None:
        require_signed(repositories, public_key)


def _released(path: Path) -> list[Path]:
    """Return the releases at a path; none where there are none, for a server that runs needs none here."""
    from mmdeploy.triton.repository import resolve

    with contextlib.suppress(UsageError):
        return list(resolve(path))
    return []


def _announce(server: Server, output: Output) -> None:
    models = [*server.probe()]
    lines = [wrapped(f"Triton {server.server_version} is ready: {', '.join(models)}")]
    lines += [f"  gRPC     {server.grpc_url}", f"  HTTP     {server.http_url}"]
    lines += [f"  metrics  {server.metrics_url}"] if server.metrics_url else []
    lines += [f"  log      {server.log}", "Ctrl-C stops it."] if server.log else []
    fields = {
        "server_version": server.server_version,
        "models": models,
        "grpc_url": server.grpc_url,
        "http_url": server.http_url,
        "metrics_url": server.metrics_url or None,
        "log": str(server.log) if server.log else None,
    }
    output.answer(text=lambda: "\n".join(lines), fields=lambda: fields)


def _warm_up(server: Server, warmed: WarmUp | None, output: Output) -> None:
    if warmed is None:
        return
    with server.runner(warmed.ensemble) as runner:
        refused = warmed.ask(runner)
    output.step(f"warmed up {warmed.ensemble} with {counted(len(warmed.requests) - len(refused), 'request')}")
    if warmed.left_out:
        output.progress(f"  {counted(warmed.left_out, 'request')} left out: they name no files")
    for reason in refused:
        click.echo(f"  refused: {printable(reason)}", err=True)


def _stop_signals() -> list[int]:
    """Collect SIGINT and SIGTERM from now on in the list that is returned."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    return received


def _places(server: Server, folder: Path) -> dict[str, Path]:
    """Return where each release is served from, by ensemble, and note it down for mmdeploy promote."""
    from mmdeploy.triton.staging import MANIFEST, read_manifest
    from mmdeploy.triton.swap_folder import write_note

    releases = {path: served for served, path in server.repositories.items() if (path / MANIFEST).is_file()}
    found = {str(read_manifest(path)["name"]): served for path, served in releases.items()}
    write_note(folder, server.http_url, found)
    return found


def _followers(
    repository: Path, public_key: Path | None, output: Output
) -> Callable[[Server, Mapping[str, Path]], Follower]:
    """Return what makes one who promotes what becomes live; complains before a server starts."""
    from mmdeploy.rollout.follow import Follower, followed

    links = followed(repository)

    def follower(server: Server, places: Mapping[str, Path]) -> Follower:
        known = {one: places[one.name] for one in links if one.name in places}
        served = {path.parent.name: path for path in server.repositories.values()}
        made = Follower(server, known, public_key, lambda stage: output.step(f"  {printable(stage)}"))
        for one in known:
            made.serves(one, served.get(one.name))
        return made

    return follower


def _watch(
    tending: Tending, stopped: list[int], places: Mapping[str, Path], follower: Follower | None, output: Output
) -> int:
    """Wait for Ctrl-C or SIGTERM and return the exit code.

    A model that dies meanwhile is loaded again, a server that dies is started again; too often is an error. A release
    that becomes live is promoted, where they are followed.
    """
    while not stopped:
        _look(tending, places)
        if follower is not None:
            _follow(follower, output)
        time.sleep(_WATCH_S)
    output.step("stopping")
    return EXIT_INTERRUPTED if stopped[0] == signal.SIGINT else EXIT_PASS


def _follow(follower: Follower, output: Output) -> None:
    from mmdeploy.rollout.promote import Promotion

    for outcome in follower.poll():
        if isinstance(outcome, Promotion):
            output.step(promotion_text(outcome))
        else:
            hint = f"\nhint: {outcome.hint}" if outcome.hint else ""
            click.echo(f"not promoted: {printable(outcome.message)}{printable(hint)}", err=True)


def _look(tending: Tending, places: Mapping[str, Path]) -> None:
    """Mend what died, unless a promotion is under way: it unloads models."""
    from mmdeploy.rollout.server_folder import PromotionUnderWayError, ServerFolder

    with contextlib.ExitStack() as held, contextlib.suppress(PromotionUnderWayError):
        for ensemble, path in places.items():
            held.enter_context(ServerFolder(path, ensemble).locked(wait_s=0))
        for told in tending.look():
            click.echo(printable(told), err=True)

"""``mmdeploy gateway``: an HTTP gateway before Triton, for callers who cannot speak KServe."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.options import public_key_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, wrapped
from mmdeploy.core.errors import EXIT_INTERRUPTED, EXIT_PASS, ServerError, UsageError

if TYPE_CHECKING:
    from mmdeploy.gateway.service import Gateway
    from mmdeploy.gateway.settings import Settings
    from mmdeploy.triton.server import Server

logger = logging.getLogger(__name__)

_MIB = 2**20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_WAIT_POLL_S = 0.5
_Files = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--url", help="Ask the Triton that runs there (http://host:port, or host:port for gRPC); start none.")
@click.option("--http-url", default="", help="Its HTTP endpoint, where that is not at the port before gRPC's.")
@click.option("--wait-s", type=click.FloatRange(0), default=0.0, help="How long --url may take to answer at first.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is everybody's.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one.")
@click.option("--keys-file", type=_Files, help="API keys, one a line, a name before it; else MMDEPLOY_GATEWAY_KEYS.")
@click.option("--admin-key-file", type=_Files, help="Who may load and roll out; else MMDEPLOY_GATEWAY_ADMIN_KEY.")
@click.option("--open", "is_open", is_flag=True, help="Let everybody ask who reaches an address that is not loopback.")
@click.option("--control-key-file", type=_Files, help="Key of Triton's control endpoints; else MMDEPLOY_CONTROL_KEY.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second for each key, or address.")
@click.option("--burst", type=click.IntRange(1), default=20, show_default=True, help="Requests at once before --rate.")
@click.option("--max-mib", type=click.IntRange(1), default=32, show_default=True, help="Size of a request.")
@click.option("--max-rows", type=click.IntRange(1), default=64, show_default=True, help="Rows of a batch.")
@click.option("--max-in-flight", type=click.IntRange(1), default=64, show_default=True, help="Requests at once.")
@click.option(
    "--timeout-s", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="To answer."
)
@click.option("--drain-s", type=click.FloatRange(0), default=0.0, help="How long to be not ready before stopping.")
@click.option(
    "--restarts", type=click.IntRange(0), default=5, show_default=True, help="Of a Triton that died; see serve."
)
@click.option("--allow-origin", multiple=True, help="Let pages of this origin ask (CORS); never control. Repeatable.")
@click.option("--allow-host", multiple=True, help="A name that requests may call a gateway on loopback by. Repeatable.")
@public_key_option
@workdir_option
@output_options(quiet="nothing but the log")
def command(
    *, repository: Path, url: str | None, host: str, port: int, workdir: Path, output: Output, **given: Any
) -> int:
    """Let callers ask a Triton by HTTP: files, text and lists in, JSON out.

    REPOSITORY is what mmdeploy serve takes. A Triton is started on it, on loopback, or with --url asked where it runs;
    names of classes are then read from REPOSITORY where it is there. Logs are JSON, on standard error; with --json the
    addresses are too, on standard output.

    \b
    Example:
      mmdeploy gateway model_repository/pets
      curl -F photo=@cat.jpg -F "caption=a cat on a mat" localhost:8080/infer
      mmdeploy gateway --url http://triton:8000 --host 0.0.0.0 \\
        --keys-file keys.txt --admin-key-file admin.txt
    """  # noqa: D301
    from mmdeploy.gateway import require_packages

    require_packages()
    from mmdeploy.gateway import logs
    from mmdeploy.gateway.serve import Address, bind, run
    from mmdeploy.gateway.service import Gateway

    settings = _settings(host, given)
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(bind(host, port))
        if url is None:
            server, require, repositories = stack.enter_context(_started(repository, given, workdir))
        else:
            repositories = _released(repository)
            server, require = _running(url, repositories, given), None
        logs.log_as_json()
        gateway, address = Gateway(server, settings, repositories), Address(host, port, drain_s=given["drain_s"])
        bound.listen()  # who reads that it listens may ask at once
        _announce(server, bound.getsockname(), settings, output)
        watch = None if require is None else _watch(server, require, gateway, given["restarts"])
        received = run(gateway, bound, address, watch=watch)
        output.step("stopping")
    return EXIT_INTERRUPTED if received == signal.SIGINT else EXIT_PASS


def _settings(host: str, given: dict[str, Any]) -> Settings:
    from mmdeploy.gateway.keys import read_keys
    from mmdeploy.gateway.settings import Settings

    keys = read_keys(given["keys_file"], given["admin_key_file"])
    if host not in _LOOPBACK and not keys.clients and not given["is_open"]:
        raise UsageError(
            f"everybody who reaches {host} could ask: there are no API keys",
            hint="name them with --keys-file FILE, or say --open",
        )
    for origin in given["allow_origin"]:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise UsageError(f"{origin!r} is not an origin", hint="such as https://example.org, without a path")
    return Settings(
        max_body_bytes=given["max_mib"] * _MIB,
        max_buffered_bytes=max(256, 2 * given["max_mib"]) * _MIB,
        max_rows=given["max_rows"],
        max_in_flight=given["max_in_flight"],
        timeout_s=given["timeout_s"],
        requests_per_s=given["rate"],
        burst=given["burst"],
        keys=keys,
        allowed_origins=given["allow_origin"],
        allowed_hosts=(*_LOOPBACK, *given["allow_host"]) if host in _LOOPBACK else None,
    )


@contextlib.contextmanager
def _started(
    repository: Path, given: dict[str, Any], workdir: Path
) -> Iterator[tuple[Server, Callable[[], None], list[Path]]]:
    """Start a Triton on loopback; give it, what raises unless it may be started again, and what it serves."""
    from mmdeploy.triton import server as triton_server
    from mmdeploy.triton.control_key import kept_key
    from mmdeploy.triton.repository import in_use, require_intact, resolve
    from mmdeploy.triton.response_cache import settings_of
    from mmdeploy.triton.signing import require_signed

    repositories = resolve(repository)

    def require() -> None:
        require_intact(repositories, sweep=True)
        if given["public_key"] is not None:
            require_signed(repositories, given["public_key"])

    with in_use(repositories):
        require()
        server = triton_server.start(
            repositories,
            log=workdir / "serve" / f"triton-{time.strftime('%Y%m%d-%H%M%S')}.log",
            response_cache_bytes=settings_of(repositories).bytes,
            model_control="explicit",  # a model whose backend died can be loaded again
            load=("*",),
            key=kept_key(given["control_key_file"]),
            grace=True,
        )
        with server:
            yield server, require, repositories


def _watch(server: Server, require: Callable[[], None], gateway: Gateway, restarts: int) -> Callable[[], None]:
    """Return what looks after a server that was started here: what dies is loaded or started again."""
    from mmdeploy.triton.tending import Tending

    tending = Tending(server, restarts=restarts, require=require, stopped=lambda: gateway.draining)

    def look() -> None:
        for told in tending.look():
            logger.warning(told)

    return look


def _running(url: str, repositories: list[Path], given: dict[str, Any]) -> Server:
    """Find a Triton that runs, as soon as it does."""
    from mmdeploy.triton import server as triton_server
    from mmdeploy.triton.control_key import known_key

    key, deadline = known_key(given["control_key_file"]), time.monotonic() + given["wait_s"]
    while True:
        try:
            return triton_server.attach(url, http_url=given["http_url"], repositories=repositories, key=key)
        except ServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAIT_POLL_S)


def _released(path: Path) -> list[Path]:
    from mmdeploy.triton.repository import resolve

    with contextlib.suppress(UsageError):
        return list(resolve(path))
    return []


def _announce(server: Server, listening: tuple[Any, ...], settings: Settings, output: Output) -> None:
    host, port = listening[:2]
    shown = f"[{host}]" if ":" in host else host
    url, log = f"http://{shown}:{port}", str(server.log) if server.log else None
    asks = counted(len(settings.keys.clients), "key") if settings.keys.clients else "everybody who reaches it"
    lines = [
        wrapped(f"the gateway listens on {url} (a page to try it, /openapi.json, /metrics)"),
        f"  Triton   {server.grpc_url}, {server.http_url}",
        *([f"  log      {log}"] if log else []),
        f"  asked by {asks}; controlled by {'the admin key' if settings.keys.admins else 'nobody'}",
        "Ctrl-C stops it.",
    ]
    fields = {"url": url, "grpc_url": server.grpc_url, "http_url": server.http_url, "log": log}
    output.answer(text=lambda: "\n".join(lines), fields=lambda: fields)

"""Starts, watches and stops a Triton Inference Server.

The server runs under `mmdeploy.triton.supervisor`, in a session of its own, and ends with the process that started
it however that ends. Ready means that every model has answered a probe inference.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmdeploy.errors import EnvironmentUnfitError, InferenceError, ServerError
from mmdeploy.triton import server_log
from mmdeploy.triton.client import GrpcRunner, get_json
from mmdeploy.triton.install import (
    Installation,
    assemble_backends,
    find_installation,
    link_package,
    server_environment,
)
from mmdeploy.triton.probe import probe_models

logger = logging.getLogger(__name__)

_PORT_ATTEMPTS = 5
_GRACE_S = 10.0
_POLL_S = 0.05


@dataclass
class Server:
    """A Triton that answers; a context manager that stops it (unless it was attached to).

    Attributes:
        http_url: ``http://host:port``.
        grpc_url: ``host:port``.
        metrics_url: ``http://host:port/metrics``; None when not known.
        server_version: Version that the server reports.
        log: Where its log is written; None for a server that somebody else started.
        pid: Of the process to which everything else belongs; None for a server that somebody else started.
        explicit: Whether models are loaded and unloaded on request.
    """

    http_url: str
    grpc_url: str
    metrics_url: str | None
    server_version: str
    log: Path | None = None
    explicit: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """Process id of the supervisor; the server and its stubs are its descendants."""
        return None if self._process is None else self._process.pid

    def runner(self, model: str, *, model_version: str = "", timeout_s: float = 60.0) -> GrpcRunner:
        """Open a connection to a served model."""
        return GrpcRunner(self.grpc_url, model, model_version=model_version, timeout_s=timeout_s)

    def probe(self, *, timeout_s: float = 60.0) -> tuple[str, ...]:
        """Ask every loaded model for one inference; return the models that answered.

        Raises:
            ServerError: If a model does not answer (such as one whose stub was killed), or the server is gone.
        """
        if self._process is not None and self._process.poll() is not None:
            raise _died(self._process.returncode, self.log)
        return probe_models(self.grpc_url, self.http_url, timeout_s=timeout_s)

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Load a model, or load it again when its files changed; needs explicit model control.

        Raises:
            ServerError: If Triton refuses it, with the reason.
        """
        self._control(model, "load", timeout_s)

    def unload(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Unload a model; needs explicit model control."""
        self._control(model, "unload", timeout_s)

    def memory_bytes(self) -> int:
        """Return the memory of the server and all its processes now.

        The proportional set size (PSS) where the kernel tells it: pages that processes share, such as libraries
        and shared memory, count once. Else the resident set size (RSS), which counts them in each process.

        Raises:
            EnvironmentUnfitError: If somebody else started the server.
        """
        import psutil

        if self._process is None:
            raise EnvironmentUnfitError(f"the memory of {self.http_url} cannot be measured: it runs elsewhere")
        total = 0
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                try:
                    total += process.memory_full_info().pss
                except (psutil.AccessDenied, AttributeError):
                    total += process.memory_info().rss
        return total

    def stop(self) -> None:
        """Stop the server and everything it started; calling it twice is fine."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            logger.warning("the server's supervisor did not end in time and is killed")
            process.kill()
            process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _control(self, model: str, action: Literal["load", "unload"], timeout_s: float) -> None:
        try:
            get_json(f"{self.http_url}/v2/repository/models/{model}/{action}", body={}, timeout_s=timeout_s)
        except InferenceError as error:
            raise ServerError(f"Triton refused to {action} {model!r}: {error}", log=_name(self.log)) from error


def start(
    repositories: Sequence[Path],
    *,
    log: Path,
    host: str = "127.0.0.1",
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
    ready_timeout_s: float = 120.0,
    binary: Path | None = None,
    response_cache_bytes: int = 0,
    model_control: Literal["none", "explicit"] = "none",
    load: Sequence[str] = (),
) -> Server:
    """Start a server on model repositories and wait until every model answers.

    Args:
        repositories: Model repositories; a model's name must be unique among them.
        log: File that the server's log is written to; emptied first.
        host: Address to listen on.
        http_port: Port to listen on; 0 for a free one.
        grpc_port: Likewise.
        metrics_port: Likewise.
        ready_timeout_s: How long loading and the first answers may take.
        binary: A ``tritonserver`` to take instead of searching.
        response_cache_bytes: Size of the response cache that models with ``response_cache`` share; 0 for none.
        model_control: Whether models can be loaded and unloaded later.
        load: Models to load at the start under explicit control; ``("*",)`` for all.

    Returns:
        The server; use it as a context manager.

    Raises:
        EnvironmentUnfitError: If there is no usable Triton, or a port that was asked for is taken.
        ServerError: If the server refuses a model, dies, or is not ready in time.
    """
    installation = find_installation(binary)
    for port in filter(None, (http_port, grpc_port, metrics_port)):
        _require_free(host, port)
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["--model-control-mode", model_control, *(f"--load-model={name}" for name in load)]
    for repository in repositories:
        options += ["--model-repository", str(repository.absolute())]
    for attempt in range(_PORT_ATTEMPTS):
        ports = _Ports.choose(host, http_port, grpc_port, metrics_port)
        process = _launch(installation, [*options, *ports.options()], log, response_cache_bytes)
        server = Server(
            http_url=f"http://{ports.address}:{ports.http}",
            grpc_url=f"{ports.address}:{ports.grpc}",
            metrics_url=f"http://{ports.address}:{ports.metrics}/metrics",
            server_version="",
            log=log,
            explicit=model_control == "explicit",
            _process=process,
        )
        try:
            _await_ready(server, process, time.monotonic() + ready_timeout_s)
        except BaseException as error:
            server.stop()
            taken = server_log.taken_socket(log.read_text(errors="replace"))
            if isinstance(error, ServerError) and taken and attempt < _PORT_ATTEMPTS - 1:
                _require_free(host, *(port for port in (http_port, grpc_port, metrics_port) if port))
                logger.info("%s was taken meanwhile; trying other ports", taken)
                continue
            raise
        return server
    raise AssertionError("unreachable")


def attach(url: str, *, http_url: str = "", timeout_s: float = 10.0) -> Server:
    """Use a server that runs already.

    Args:
        url: Its gRPC endpoint, ``host:port`` or ``grpc://host:port``; or its HTTP endpoint, ``http://host:port``,
            and gRPC is expected at the next port, as Triton's defaults have it.
        http_url: Its HTTP endpoint, where that is not at the port before gRPC's.
        timeout_s: For it to answer.

    Raises:
        ServerError: If nothing answers there.
    """
    scheme, _, address = url.rstrip("/").rpartition("://")
    host, _, port = address.rpartition(":")
    if scheme not in ("", "grpc", "http") or not host or not port.isdigit():
        raise ServerError(
            f"{url} is not a server's address", hint="accepted: host:port, grpc://host:port, http://host:port"
        )
    grpc_port = int(port) + 1 if scheme == "http" else int(port)
    http_url = (http_url or f"http://{host}:{grpc_port - 1}").rstrip("/")
    version = get_json(f"{http_url}/v2", timeout_s=timeout_s)["version"]
    return Server(http_url, f"{host}:{grpc_port}", None, version)


@dataclass(frozen=True)
class _Ports:
    host: str
    http: int
    grpc: int
    metrics: int

    @property
    def address(self) -> str:
        """Where a client on this machine reaches the server."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host

    @classmethod
    def choose(cls, host: str, *wanted: int) -> _Ports:
        """Ask the kernel for free ports in place of zeros, all held at once so that they differ."""
        with contextlib.ExitStack() as held:
            ports = []
            for port in wanted:
                if not port:
                    probe = held.enter_context(socket.socket())
                    probe.bind((host, 0))
                    port = probe.getsockname()[1]
                ports.append(port)
        return cls(host, *ports)

    def options(self) -> list[str]:
        options = []
        for name in ("http", "grpc", "metrics"):
            options += [f"--{name}-address", self.host, f"--{name}-port", str(getattr(self, name))]
        return options


def _launch(
    installation: Installation, options: Sequence[str], log: Path, response_cache_bytes: int
) -> subprocess.Popen[bytes]:
    folder = Path(tempfile.mkdtemp(prefix="mmdeploy-triton-"))
    shm_prefix = f"mmdeploy_{uuid.uuid4().hex[:12]}_"
    command = [str(installation.binary), *options, "--exit-timeout-secs", str(int(_GRACE_S))]
    backends = assemble_backends(installation, folder / "backends")
    if backends is not None:
        command += ["--backend-directory", str(backends)]
    command += ["--backend-config", f"python,shm-region-prefix-name={shm_prefix}"]
    if response_cache_bytes:
        command += ["--cache-config", f"local,size={response_cache_bytes}"]
        if installation.root is not None:
            command += ["--cache-directory", str(installation.root / "caches")]
    link_package(folder)
    supervisor = [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py"))]
    with log.open("wb") as stream:
        return subprocess.Popen(
            [*supervisor, str(_pid()), str(_GRACE_S), shm_prefix, str(folder), *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=server_environment(installation),
            cwd=folder,
            start_new_session=True,
        )


def _pid() -> int:
    import os

    return os.getpid()


def _await_ready(server: Server, process: subprocess.Popen[bytes], deadline: float) -> None:
    while True:
        if process.poll() is not None:
            raise _died(process.returncode, server.log)
        with contextlib.suppress(ServerError, InferenceError):
            get_json(f"{server.http_url}/v2/health/ready", timeout_s=5)
            break
        if time.monotonic() > deadline:
            raise ServerError(
                f"Triton was not ready in time; the log's last lines:\n{server_log.tail(_existing(server.log))}",
                log=_name(server.log),
            )
        time.sleep(_POLL_S)
    server.server_version = get_json(f"{server.http_url}/v2", timeout_s=5)["version"]
    server.probe(timeout_s=max(1.0, deadline - time.monotonic()))


def _died(code: int, log: Path | None) -> ServerError:
    text = _existing(log).read_text(errors="replace")
    refused = server_log.refused_models(text)
    if refused:
        reasons = "\n".join(f"  {model}: {reason}" for model, reason in sorted(refused.items()))
        return ServerError(f"Triton refused {len(refused)} model(s):\n{reasons}", log=_name(log))
    errors = server_log.repository_errors(text)
    if errors:
        return ServerError(
            "Triton refused the repository:\n" + "\n".join(f"  {line}" for line in errors), log=_name(log)
        )
    last = server_log.tail(_existing(log))
    return ServerError(f"Triton ended with exit code {code}; the log's last lines:\n{last}", log=_name(log))


def _existing(log: Path | None) -> Path:
    return log or Path("/dev/null")


def _name(log: Path | None) -> str | None:
    return None if log is None else str(log)


def _require_free(host: str, *ports: int) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise EnvironmentUnfitError(
                    f"cannot listen on {host}:{port}: {error.strerror}{_listener(port)}",
                    hint="choose another port, or 0 for a free one",
                ) from error


def _listener(port: int) -> str:
    """Say which process listens on a port, where this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" (used by process {connection.pid}, {psutil.Process(connection.pid).name()})"
    return ""

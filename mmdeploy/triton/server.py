"""Starts, watches and stops a Triton Inference Server.

The server ends with the process that started it, however that ends (`mmdeploy.triton.supervisor`). Ready
means that every model has answered a probe inference (`mmdeploy.triton.probe`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from mmdeploy.core.errors import EnvironmentUnfitError, InferenceError, ServerError
from mmdeploy.triton import server_log
from mmdeploy.triton.address import Address, version_at
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.control_key import ControlKey
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.install import find_installation, installed_stand_ins, is_complete
from mmdeploy.triton.known_samples import SAMPLES, Samples, read_samples
from mmdeploy.triton.launch import Ports, Processes, launch
from mmdeploy.triton.probe import loaded_models, probe_models
from mmdeploy.triton.servable import require_servable

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
_POLL_S = 0.05


@dataclass
class Server:
    """A Triton that answers; a context manager that stops it, unless somebody else started it.

    Attributes:
        http_url: ``http://host:port``.
        grpc_url: ``host:port``.
        metrics_url: ``http://host:port/metrics``; None when not known.
        server_version: Version that the server reports, such as ``2.51.0``.
        log: Where its log is written; None for a server that somebody else started.
    """

    http_url: str
    grpc_url: str
    metrics_url: str | None = None
    server_version: str = ""
    log: Path | None = None
    _processes: Processes | None = field(default=None, repr=False)
    _samples: Samples = field(default_factory=dict, repr=False)
    _key: ControlKey | None = None
    _start_again: Callable[[], Processes] | None = field(default=None, repr=False)
    _grace: bool = False

    @property
    def pid(self) -> int | None:
        """Process above the server and its stubs; None for a server that somebody else started."""
        return None if self._processes is None else self._processes.supervisor.pid

    @property
    def repositories(self) -> Mapping[Path, Path]:
        """Each repository by the path that it is served from; none for a server that somebody else started."""
        return {} if self._processes is None else self._processes.repositories

    def runner(self, model: str, *, model_version: str = "", timeout_s: float = 60.0) -> GrpcRunner:
        """Open a connection of its own to a served model."""
        return GrpcRunner(self.grpc_url, model, model_version=model_version, timeout_s=timeout_s)

    def probe(self, *, timeout_s: float = 60.0) -> tuple[str, ...]:
        """Ask every loaded model for one inference; return the models that answered.

        Raises:
            ServerError: If a model does not answer, such as one whose stub was killed, or the server is gone.
        """
        self.require_running()
        results = self._probed(timeout_s)
        broken = "".join(f"\n  {model}: {reason}" for model, reason in results.items() if reason)
        if broken:
            raise ServerError(
                f"models that are loaded do not answer a probe:{broken}",
                hint=_hint(broken) or "restart the server, or call heal() under explicit model control",
                log=self._log_name,
            )
        return tuple(results)

    def _probed(self, timeout_s: float) -> dict[str, str | None]:
        # what was promoted brings its samples along
        models = [path.parent for folder in self.repositories for path in folder.glob(f"*/{SAMPLES}")]
        samples = dict(self._samples) | read_samples(models)
        return probe_models(self.grpc_url, self.http_url, timeout_s=timeout_s, samples=samples)

    def heal(self, known: Collection[str] = (), *, timeout_s: float = 60.0) -> tuple[str, ...]:
        """Unload and load again every model that does not answer a probe; return their names.

        Needs explicit model control. Loading alone does nothing for a model whose stub was killed.

        Args:
            known: Models that are known to be broken, such as by one dead instance among several; not asked first.
            timeout_s: For each request.

        Raises:
            ServerError: If a model does not answer even then.
        """
        self.require_running()
        broken = tuple(known)
        if not broken:
            broken = tuple(model for model, reason in self._probed(timeout_s).items() if reason)
        if broken:  # whoever controls the server may have unloaded one meanwhile, which is no fault
            loaded = loaded_models(self.http_url, timeout_s=timeout_s)
            broken = tuple(model for model in broken if model in loaded)
        for model in broken:
            self.unload(model)
            self.load(model)
        self.probe(timeout_s=timeout_s)
        return broken

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Load a model, or load it again when its files changed; needs explicit model control.

        Raises:
            ServerError: If Triton refuses it, with the reason.
        """
        self._control(model, "load", timeout_s)

    def unload(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Unload a model and wait until it is gone; needs explicit model control.

        Raises:
            ServerError: If Triton refuses or does not answer, or the model does not go.
        """
        self._control(model, "unload", timeout_s)
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(InferenceError):  # refused: it went; that nobody answers does not say so
            while time.monotonic() < deadline:
                ask_json(f"{self.http_url}/v2/models/{model}/ready", timeout_s=timeout_s)
                time.sleep(_POLL_S)
            raise ServerError(f"{model!r} was not unloaded within {timeout_s} s", log=self._log_name)

    def memory_bytes(self) -> int:
        """Return the memory of the server and all its processes now.

        The proportional set size (PSS) where the kernel tells it: pages that processes share, such as
        libraries and shared memory, count once. Else the resident set size (RSS), which counts them for each.

        Raises:
            EnvironmentUnfitError: If somebody else started the server.
            ServerError: If the server has ended.
        """
        import psutil

        if self.pid is None:
            raise EnvironmentUnfitError(f"the memory of {self.http_url} cannot be measured: it was not started here")
        self.require_running()
        total, supervisor = 0, psutil.Process(self.pid)
        for process in supervisor.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline() == supervisor.cmdline():  # its guard, a fork
                    continue
                try:
                    total += process.memory_full_info().pss
                except (psutil.AccessDenied, AttributeError):
                    total += process.memory_info().rss
        self.require_running()  # else what was added up is what was left of it
        return total

    def restart(self, *, ready_timeout_s: float = 60.0) -> None:
        """Start a server that ended or hangs again, as it was started: on the same ports, with the same key.

        The log of the one before is kept beside its own, under a number.

        Raises:
            EnvironmentUnfitError: If somebody else started it.
            ServerError: If it ends again, or is not ready in time.
        """
        if self._start_again is None or self.log is None:
            raise EnvironmentUnfitError(f"{self.http_url} cannot be started again: it was not started here")
        self.stop()
        server_log.set_aside(self.log)
        self.server_version = ""
        self._processes = self._start_again()
        try:
            self._await_ready(time.monotonic() + ready_timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and everything that it started; calling it twice is fine.

        Requests in flight are answered if it was started with ``grace``.
        """
        if self._processes is not None:
            self._processes.stop(at_once=not self._grace)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def control_headers(self) -> Mapping[str, str]:
        """What opens the control endpoints over HTTP; nothing where no key is known."""
        key = self._key if self._processes is None else self._processes.key
        return {} if key is None else key.http_headers

    @property
    def _log_name(self) -> str | None:
        return None if self.log is None else str(self.log)

    def _said(self) -> str:
        """Return the log, with the paths that whoever started the server knows."""
        text = server_log.read(self.log)
        for known, path in self.repositories.items():
            text = text.replace(str(known), str(path))
        return text

    @property
    def is_running(self) -> bool:
        """Whether its process lives; True for a server that somebody else started."""
        return self._processes is None or self._processes.supervisor.poll() is None

    def require_running(self) -> None:
        """Do nothing while the server's process lives.

        Raises:
            ServerError: With its last words, if it is gone.
        """
        if self._processes is None or (code := self._processes.supervisor.poll()) is None:
            return
        text = self._said()
        # A server that was ready once has other reasons to end; healing leaves refusals in its log.
        refused = {} if self.server_version else server_log.refusals(text)
        if refused:
            reasons = "".join(f"\n  {model}: {reason}" for model, reason in sorted(refused.items()))
            raise ServerError(f"Triton refused to load:{reasons}", hint=_hint(reasons), log=self._log_name)
        raise ServerError(f"Triton ended (exit code {code}): {server_log.last_words(text)}", log=self._log_name)

    def _is_ready(self, path: str) -> bool:
        with contextlib.suppress(ServerError, InferenceError):
            ask_json(f"{self.http_url}/v2/{path}", timeout_s=5)
            return True
        return False

    def _await_ready(self, deadline: float) -> None:
        while not self._is_ready("health/ready"):
            self.require_running()
            if time.monotonic() > deadline:
                said = "\n".join(server_log.informative_lines(self._said())[-15:])
                raise ServerError(f"Triton was not ready in time; it said last:\n{said}", log=self._log_name)
            time.sleep(_POLL_S)
        left_s = max(5.0, deadline - time.monotonic())
        self.server_version = ask_json(f"{self.http_url}/v2", timeout_s=left_s)["version"]
        self.probe(timeout_s=max(1.0, deadline - time.monotonic()))

    def _control(self, model: str, action: Literal["load", "unload"], timeout_s: float) -> None:
        url = f"{self.http_url}/v2/repository/models/{model}/{action}"
        try:
            ask_json(url, body={}, headers=self.control_headers, timeout_s=timeout_s)
        except InferenceError as error:
            reason = server_log.reason_not_loaded(error.message)
            raise ServerError(f"cannot {action} {model!r}: {reason}", log=self._log_name) from error


def _hint(reasons: str) -> str | None:
    if "FileNotFoundError" in reasons:
        return "a step of the recipe's own has beside it only what the recipe names: list what its code reads in files"
    if "unable to find backend library" not in reasons:
        return None
    return (
        "this Triton has no such backend: serve with a release container, or install the plug-in whose engine brings a "
        "stand-in for it"
    )


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
    stand_ins: Mapping[str, Path] = MappingProxyType({}),
    key: ControlKey | None = None,
    swap: Path | None = None,
    grace: bool = False,
) -> Server:
    """Start a server on model repositories and wait until every model answers.

    Args:
        repositories: Model repositories; a model's name must be unique among them.
        log: File that the server's log is streamed to; emptied first.
        host: Address to listen on.
        http_port: Port to listen on; 0 for a free one.
        grpc_port: Likewise.
        metrics_port: Likewise.
        ready_timeout_s: How long loading and the first answers may take together.
        binary: A ``tritonserver`` to take instead of searching.
        response_cache_bytes: Size of the cache that models with ``response_cache`` share; 0 for none.
        model_control: ``explicit`` when models are to be loaded and unloaded later.
        load: Models to load at the start under explicit control; ``("*",)`` for all.
        stand_ins: Folders of Python-based backends, by the backend's name, for a server that has only the python
            backend: besides our own and those that installed engines bring.
        key: What its control endpoints want; made for this server where it is not given.
        swap: Folder to serve releases from, so that others can be put beside them.
        grace: Whether requests in flight are answered when it is stopped, which takes Triton seconds: for a server that
            others ask.

    Returns:
        The server; use it as a context manager.

    Raises:
        EnvironmentUnfitError: If there is no usable Triton, a port that was asked for is taken, or packages are missing
            that the Python steps of a repository need.
        UsageError: If a repository would take the wheel's server down, or have a shell run a name in it.
        ServerError: If the server refuses a model, dies, or is not ready in time.
    """
    installation = find_installation(binary)
    options = [f"--model-control-mode={model_control}", *(f"--load-model={name}" for name in load)]
    require_servable(repositories, installation)
    if installation.embedded and all(map(is_complete, repositories)):
        options.append("--disable-auto-complete-config")
    log.parent.mkdir(parents=True, exist_ok=True)
    backends = installed_stand_ins() | dict(stand_ins) if installation.embedded else {}
    launched = functools.partial(
        launch,
        installation,
        repositories,
        log=log,
        response_cache_bytes=response_cache_bytes, stand_ins=backends, key=key, swap=swap,
    )  # fmt: skip
    samples = read_samples(repositories)
    for attempt in range(_ATTEMPTS):
        ports = Ports.choose(host, http_port, grpc_port, metrics_port)
        begin = functools.partial(launched, [*options, *ports.options()])
        server = replace(_serving(ports, begin(), log), _samples=samples, _start_again=begin, _grace=grace)
        try:
            server._await_ready(time.monotonic() + ready_timeout_s)
        except BaseException as error:
            server.stop()
            reason = server_log.passing_reason(server_log.read(log))
            if not isinstance(error, ServerError) or not reason or attempt + 1 == _ATTEMPTS:
                raise
            logger.info("%s; trying again", reason)
        else:
            return server
    raise AssertionError("the last attempt returns or raises")


def _serving(ports: Ports, processes: Processes, log: Path) -> Server:
    metrics_url = f"http://{ports.address}:{ports.metrics}/metrics"
    http_url, grpc_url = f"http://{ports.address}:{ports.http}", f"{ports.address}:{ports.grpc}"
    return Server(http_url, grpc_url, metrics_url, log=log, _processes=processes)


def attach(
    url: str,
    *,
    http_url: str = "",
    timeout_s: float = 10.0,
    repositories: Sequence[Path] = (),
    key: ControlKey | None = None,
) -> Server:
    """Use a server that runs already.

    Args:
        url: Its gRPC endpoint, ``host:port`` or ``grpc://host:port``; or its HTTP endpoint,
            ``http://host:port``, and gRPC is expected at the next port, as Triton's defaults have it.
        http_url: Its HTTP endpoint, where that is not at the port before gRPC's.
        timeout_s: For it to answer.
        repositories: Releases that may be what it serves: what they know of samples is what models are probed with.
        key: What its control endpoints want, where it is to be controlled.

    Raises:
        UsageError: If the address is none.
        ServerError: If nothing answers there.
    """
    address = Address.parsed(url)
    grpc_port = address.port + 1 if address.is_http else address.port
    http_url = (http_url or f"http://{address.host}:{grpc_port - 1}").rstrip("/")
    version = version_at(http_url, address, timeout_s=timeout_s)
    samples = read_samples(repositories)
    return Server(http_url, f"{address.host}:{grpc_port}", server_version=version, _samples=samples, _key=key)

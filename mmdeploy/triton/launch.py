"""Chooses ports and starts the server's processes; whether it serves is for `mmdeploy.triton.server`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.temporary import HeldFolder
from mmdeploy.triton.control_key import ControlKey, restricting_options
from mmdeploy.triton.install import Installation, assemble_backends, link_package, server_environment
from mmdeploy.triton.shell_paths import hold_safe_folder, linked
from mmdeploy.triton.staging import remove_compiled

#: How long requests in flight may take when the server is asked to stop, in seconds.
GRACE_S = 5
#: Has the metrics hold percentiles of the last minute beside their counters.
SUMMARIES = "--metrics-config=summary_latencies=true"


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    host: str
    http: int
    grpc: int
    metrics: int

    @property
    def address(self) -> str:
        """The host as a client on this machine reaches it."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host

    @classmethod
    def choose(cls, host: str, *wanted: int) -> Ports:
        """Take free ports in place of zeros; all are held while choosing, so that they differ.

        Raises:
            EnvironmentUnfitError: If a port that was asked for is taken, or the host is not this machine's.
        """
        ports = []
        with contextlib.ExitStack() as held:
            for port in wanted:
                bound = held.enter_context(socket.socket())
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    bound.bind((host, port))
                except OSError as error:
                    raise EnvironmentUnfitError(
                        f"cannot listen on {host}:{port}: {error.strerror or error}{_listener(port)}",
                        hint="choose another port, or 0 for a free one",
                    ) from error
                ports.append(bound.getsockname()[1])
        return cls(host, *ports)

    def options(self) -> list[str]:
        """Return tritonserver's options; its own defaults would listen on every interface."""
        options = []
        for name in ("http", "grpc", "metrics"):
            options += [f"--{name}-address={self.host}", f"--{name}-port={getattr(self, name)}"]
        return options


@dataclass(frozen=True)
class Processes:
    """A supervisor with the server and its stubs below it.

    Attributes:
        supervisor: The child of this process; see `mmdeploy.triton.supervisor`.
        folder: The server's working folder, removed when it stops.
        shm_prefix: What the names of its shared-memory regions start with.
        key: What opens the server's control endpoints.
        repositories: Each repository by the path that the server knows it by.
    """

    supervisor: subprocess.Popen[bytes]
    folder: HeldFolder
    shm_prefix: str
    key: ControlKey
    repositories: Mapping[Path, Path]

    def stop(self, *, at_once: bool = False) -> None:
        """End every process and remove what they leave behind; calling it twice is fine.

        Args:
            at_once: Whether requests in flight may go unanswered.
        """
        if self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGQUIT if at_once else signal.SIGTERM)
            try:
                self.supervisor.wait(GRACE_S + 10)
            except subprocess.TimeoutExpired:
                self.supervisor.kill()  # the kernel then kills the server, and its guard the stubs
                self.supervisor.wait()
        for repository in self.repositories.values():
            remove_compiled(repository)
        # The supervisor has done this already, unless it was killed.
        self.folder.remove()
        for region in Path("/dev/shm").glob(f"{self.shm_prefix}*"):
            region.unlink(missing_ok=True)


def launch(
    installation: Installation,
    repositories: Sequence[Path],
    options: Sequence[str],
    *,
    log: Path,
    response_cache_bytes: int,
    stand_ins: Mapping[str, Path] = MappingProxyType({}),
    key: ControlKey | None = None,
    swap: Path | None = None,
) -> Processes:
    """Start the server under a supervisor, both in a session of their own, the log emptied first.

    Without a key, one is made for this server. Releases are served from ``swap`` where that is given.
    """
    held = hold_safe_folder("triton")
    try:
        served = linked(repositories, held.path, swap)
        command = [str(installation.binary), *(f"--model-repository={path}" for path in served), *options]
        command += [*restricting_options(), SUMMARIES]
        backends = assemble_backends(installation, held.path / "backends", stand_ins)
        if backends is not None:
            command.append(f"--backend-directory={backends}")
        if response_cache_bytes:
            command.append(f"--cache-config=local,size={response_cache_bytes}")
            if installation.root is not None:
                command.append(f"--cache-directory={installation.root / 'caches'}")
        link_package(held.path)
        return _supervised(installation, command, held, served, log=log, key=key or ControlKey())
    except BaseException:
        held.remove()
        raise


def _supervised(
    installation: Installation,
    command: Sequence[str],
    held: HeldFolder,
    served: Mapping[Path, Path],
    *,
    log: Path,
    key: ControlKey,
) -> Processes:
    shm_prefix = f"mmdeploy_{uuid.uuid4().hex[:12]}_"
    script = Path(__file__).with_name("supervisor.py")
    supervise = [
        sys.executable,
        "-I",
        "-S",
        str(script),
        str(os.getpid()),
        str(GRACE_S),
        shm_prefix,
        str(held.path),
    ]
    settings = [f"--exit-timeout-secs={GRACE_S}", f"--backend-config=python,shm-region-prefix-name={shm_prefix}"]
    with log.open("wb") as stream:
        supervisor = subprocess.Popen(
            [*supervise, *command, *settings],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=server_environment(installation),
            cwd=held.path,
            start_new_session=True,
            pass_fds=() if held.descriptor is None else (held.descriptor,),
        )
    assert supervisor.stdin is not None
    with contextlib.suppress(BrokenPipeError), supervisor.stdin as pipe:  # broken: it ended, and its log says why
        pipe.write(key.secret.encode())
    return Processes(supervisor, held, shm_prefix, key, served)


def _listener(port: int) -> str:
    """Say which process listens on a port, where this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            at_port = connection.laddr and connection.laddr.port == port
            if at_port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" (process {connection.pid}, {psutil.Process(connection.pid).name()}, listens there)"
    return ""

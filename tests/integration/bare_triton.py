"""A bare tritonserver from the pip wheel that goes on without the models that it refuses.

`mmdeploy.triton.server.start` wants every model to answer; the tests of lint want to know which do not load.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from free_ports import free_port

PACKAGES = Path(sysconfig.get_paths()["purelib"])
TRITON = PACKAGES / "pytriton" / "tritonserver"


@dataclass(frozen=True)
class BareTriton:
    """A server that has loaded what it can, or has died trying.

    Attributes:
        ready: Names of the models that it serves.
        url: Of its HTTP endpoint.
        log_path: Its log.
        exit_code: Set if it died.
    """

    ready: frozenset[str]
    url: str
    log_path: Path
    exit_code: int | None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def infer(self, model: str, **tensors: tuple[str, list[int], list[Any]]) -> dict[str, Any]:
        """Ask by KServe v2 JSON; a tensor is its dtype, shape and flat data."""
        inputs = [
            {"name": name, "datatype": dtype, "shape": shape, "data": data}
            for name, (dtype, shape, data) in tensors.items()
        ]
        answer = _post(f"{self.url}/v2/models/{model}/infer", {"inputs": inputs})
        return {output["name"]: (output["shape"], output["data"]) for output in answer["outputs"]}


@contextlib.contextmanager
def bare_triton(
    repositories: Sequence[Path], folder: Path, *, python_backends: Mapping[str, str] | None = None
) -> Iterator[BareTriton]:
    """Start a server on loopback and stop it at the end, with everything that belongs to it.

    Args:
        repositories: Model repositories.
        folder: Scratch folder, for the backends and the log.
        python_backends: Source of model.py by the name of a Python-based backend.
    """
    backends = _assemble_backends(folder / "backends", python_backends or {})
    port = free_port()
    command = [
        str(TRITON / "bin" / "tritonserver"),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={backends}",
        f"--cache-directory={TRITON / 'caches'}", "--cache-config=local,size=1048576",
        f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false",
        "--exit-on-error=false", "--exit-timeout-secs=3",
    ]  # fmt: skip
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{PACKAGES / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    log = folder / "triton.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        ready = _await_index(server, url)
        yield BareTriton(ready, url, log, server.poll())
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
        with contextlib.suppress(ProcessLookupError):  # stubs outlive a server that was killed
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _assemble_backends(folder: Path, python_backends: Mapping[str, str]) -> Path:
    shutil.copytree(TRITON / "backends" / "python", folder / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(TRITON / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "python")
    for name, code in python_backends.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(code)
    return folder


def _await_index(server: subprocess.Popen[bytes], url: str) -> frozenset[str]:
    while server.poll() is None:
        try:
            index = _post(f"{url}/v2/repository/index", {})
        except OSError:  # not listening yet: it loads first
            time.sleep(0.1)
            continue
        return frozenset(entry["name"] for entry in index if entry.get("state") == "READY")
    return frozenset()


def _post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)

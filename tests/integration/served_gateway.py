"""A gateway as its users start it, before a real Triton that it starts itself, and clients that ask it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from user_view import read_until, started

CLIENT, ADMIN = "a-client-of-the-tests", "the-admin-of-the-tests"
ASKING = {"Authorization": f"Bearer {CLIENT}"}
CONTROL = {"Authorization": f"Bearer {ADMIN}"}
MODEL = "two_towers"
INPUTS = {"a": [0.5] * 8, "b": [-0.5] * 8}
#: What has the candidates' names begin with: parts of the ensemble, which clients do not see.
NEXT, BROKEN = f"{MODEL}.next", f"{MODEL}.broken"

#: Answers a probe, which is made of zeros, and nothing else.
_BROKEN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "a").as_numpy()) for request in requests]

    def answer(self, values):
        if values.any():
            error = pb_utils.TritonError("nothing works", pb_utils.TritonError.INTERNAL)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", np.zeros((len(values), CLASSES), np.float32))])
"""


@dataclass
class Served:
    """A gateway that runs.

    Attributes:
        process: It.
        url: Where it listens.
        triton: gRPC address of the Triton below.
        triton_http: Its HTTP endpoint.
        log: What it has written to standard error.
    """

    process: subprocess.Popen[str]
    url: str
    triton: str
    triton_http: str
    log: list[str] = field(default_factory=list)

    def beside(self) -> tuple[str, ...]:
        """Return the options of another gateway before the same Triton."""
        return "nowhere", "--url", self.triton, "--http-url", self.triton_http

    def client(self, headers: dict[str, str] | None = None, timeout_s: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)


@contextmanager
def gateway(*arguments: object, folder: Path, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Start ``mmdeploy gateway`` and stop it with SIGTERM, as a service manager does."""
    process = started("gateway", *arguments, "--port", 0, cwd=folder, environment=environment)
    said = "".join(read_until(process, "Ctrl-C stops it."))
    url, grpc, http = re.search(r"(http://\S+).*Triton +(\S+), (\S+)\n", said, re.DOTALL).groups()
    served = Served(process, url, grpc, http)
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: served.log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(120) == 0
        finally:
            process.kill()
            reader.join(60)
            if process.stdout is not None:
                process.stdout.close()


def with_candidates(release: Path, folder: Path) -> Path:
    """Copy a release of the tiny recipe, beside a second ensemble that answers the same, and a model that does not."""
    copy = folder / "repository"
    shutil.copytree(release, copy)
    (copy / "manifest.json").unlink()
    config = (copy / MODEL / "config.pbtxt").read_text()
    for name in (NEXT, BROKEN):
        (copy / name / "1").mkdir(parents=True)
        (copy / name / "1" / "README.txt").write_text("nothing\n")
    renamed = config.replace(f'name: "{MODEL}"', f'name: "{NEXT}"', 1)
    (copy / NEXT / "config.pbtxt").write_text(renamed)
    classes = re.findall(r"dims: (\d+)", config[config.index("output {") :])[0]
    tensors = config[: config.index("ensemble_scheduling")].replace(f'name: "{MODEL}"', f'name: "{BROKEN}"', 1)
    (copy / BROKEN / "config.pbtxt").write_text(tensors.replace('platform: "ensemble"', 'backend: "python"'))
    (copy / BROKEN / "1" / "model.py").write_text(_BROKEN.replace("CLASSES", classes))
    return copy


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error that an answer tells, which must be of the one form."""
    told = response.json()
    assert set(told) == {"error"}, told
    error: dict[str, Any] = told["error"]
    assert {"code", "message", "request_id"} <= set(error) <= {"code", "message", "request_id", "hint"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error

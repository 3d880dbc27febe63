"""How Triton is started in production: the flags of its guide on secure deployment, and what the release needs.

The guide: docs/customization_guide/deploy.md of triton-inference-server/server. Defaults that are safe are written out
where the guide names them: a default may change with the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mmdeploy.packaging.containers import numbers
from mmdeploy.packaging.subject import Subject
from mmdeploy.triton.control_key import restricting_options

HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
#: Seconds that requests in flight have when the server is asked to stop.
EXIT_TIMEOUT_S = 30
#: Answers that a gRPC stream may keep ready; the guide: bounded, for its default is no limit.
_RESPONSES = 64
#: Clients exchange no tensors by shared memory.
NO_SHARED_MEMORY = "--allow-client-shm=false"
#: Options that older servers do not know, with the first version that does (read in each branch's parser).
_SINCE = {
    "--grpc-max-response-pool-size": "2.56.0",
    "--http-max-input-size": "2.59.0",
    "--allow-client-shm": "2.68.0",
}


@dataclass(frozen=True)
class ServerSettings:
    """What may be chosen.

    Attributes:
        repository: Where the release lies for the server.
        model_control: none, or explicit: models can be loaded while it runs, by who has the control key.
        host: Address that it listens on.
    """

    repository: str = "/opt/mmdeploy/release"
    model_control: Literal["none", "explicit"] = "none"
    host: str = "0.0.0.0"


def server_options(subject: Subject, triton: str, settings: ServerSettings | None = None) -> list[str]:
    """Return the options of a server of some version; a placeholder stands for the control key.

    Args:
        subject: What is served.
        triton: Version of the server: options that it does not know are left out.
        settings: What was chosen.
    """
    return [option for option in _options(subject, settings or ServerSettings()) if knows(option, triton)]


def knows(option: str, triton: str) -> bool:
    """Say whether a server of some version knows an option."""
    return numbers(triton) >= numbers(_SINCE.get(option.partition("=")[0], "0"))


def _options(subject: Subject, settings: ServerSettings) -> Iterator[str]:
    yield f"--model-repository={settings.repository}"
    yield f"--model-control-mode={settings.model_control}"
    if settings.model_control == "explicit":
        yield from (f"--load-model={model}" for model in subject.models)
    yield "--exit-on-error=true"
    yield "--strict-readiness=true"
    yield "--disable-auto-complete-config"  # the release's configurations say everything
    for name, port in (("http", HTTP_PORT), ("grpc", GRPC_PORT), ("metrics", METRICS_PORT)):
        yield f"--{name}-address={settings.host}"
        yield f"--{name}-port={port}"
    yield from restricting_options()
    yield NO_SHARED_MEMORY
    yield f"--http-max-input-size={subject.body_bytes}"
    yield f"--grpc-max-response-pool-size={_RESPONSES}"
    yield "--allow-sagemaker=false"
    yield "--allow-vertex-ai=false"
    yield "--trace-config=level=OFF"
    yield "--allow-metrics=true"
    yield f"--allow-gpu-metrics={str(subject.gpu).lower()}"
    yield "--metrics-config=summary_latencies=true"
    yield f"--exit-timeout-secs={EXIT_TIMEOUT_S}"
    if subject.cache_option:
        yield subject.cache_option

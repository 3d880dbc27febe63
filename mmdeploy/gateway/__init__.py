"""An HTTP gateway in front of a Triton: files, text and lists in, JSON out.

For callers who cannot speak KServe v2. ``settings`` and ``keys`` say who may ask how much, ``catalogue`` what the
served models take and give, ``parts`` and ``values`` make tensors of a request's body, ``upstream`` asks Triton,
``answers`` makes JSON of what it gives, ``rollout`` splits requests between two releases; ``app`` wires them. FastAPI
and uvicorn are the extra ``gateway``: `require_packages` says so where they are missing.
"""

from __future__ import annotations

import importlib.util

from mmdeploy.core.errors import EnvironmentUnfitError

_PACKAGES = {
    "fastapi": "fastapi",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "uvicorn": "uvicorn",
}


def require_packages() -> None:
    """Do nothing where the packages of the extra are there.

    Raises:
        EnvironmentUnfitError: Naming those that are missing.
    """
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise EnvironmentUnfitError(
            f"the gateway needs {', '.join(missing)}, which this environment lacks",
            hint='pip install "multimodal-deploy[gateway]"',
        )

"""Asks every served model one small question: the only readiness that means anything.

Triton reports a model as ready although its stub process is dead and every request fails.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdeploy.artifact import NUMPY_BY_DTYPE
from mmdeploy.contracts import Array
from mmdeploy.errors import InferenceError, ServerError
from mmdeploy.triton.client import GrpcRunner, get_json

logger = logging.getLogger(__name__)


def probe_models(grpc_url: str, http_url: str, *, timeout_s: float) -> tuple[str, ...]:
    """Ask every model that is loaded for one inference of batch 1.

    Args:
        grpc_url: ``host:port``.
        http_url: ``http://host:port``.
        timeout_s: For each request.

    Returns:
        The names of the models that answered. Models that cannot be asked so (strings, sequences, several
        responses a request) are left out.

    Raises:
        ServerError: If a model does not answer, with its reason.
    """
    answered = []
    for model in loaded_models(http_url, timeout_s=timeout_s):
        config = get_json(f"{http_url}/v2/models/{model}/config", timeout_s=timeout_s)
        feed_dict = probe_inputs(config)
        if feed_dict is None:
            logger.debug("%s cannot be probed", model)
            continue
        runner = GrpcRunner(grpc_url, model, timeout_s=timeout_s)
        try:
            runner.infer(feed_dict)
        except InferenceError as error:
            raise ServerError(
                f"model {model!r} is loaded but does not answer a probe: {error}",
                hint="a killed stub process needs the model unloaded and loaded again, or the server restarted",
            ) from error
        finally:
            runner.close()
        answered.append(model)
    return tuple(answered)


def loaded_models(http_url: str, *, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the names of the models that are loaded, sorted."""
    index = get_json(f"{http_url}/v2/repository/index", body={"ready": True}, timeout_s=timeout_s)
    return tuple(sorted({entry["name"] for entry in index["items"]}))


def probe_inputs(config: Mapping[str, Any]) -> dict[str, Array] | None:
    """Make inputs of batch 1 that the model must accept, from its config as Triton's HTTP endpoint gives it.

    Sizes that vary are taken from ``model_warmup`` where it has them, else 1. Values are zeros, or the lowest
    allowed value where zero is outside the range in the parameter ``mmdeploy.inputs``. None when the model
    cannot be asked so.
    """
    if "sequence_batching" in config or config.get("model_transaction_policy", {}).get("decoupled"):
        return None
    rules = json.loads(config.get("parameters", {}).get("mmdeploy.inputs", {}).get("string_value", "{}"))
    warmup = next(iter(config.get("model_warmup", [])), {}).get("inputs", {})
    batch = (1,) if config.get("max_batch_size", 0) else ()
    feed_dict = {}
    for tensor in config["input"]:
        dtype = NUMPY_BY_DTYPE.get(tensor["data_type"].removeprefix("TYPE_"))
        if dtype is None:
            return None
        dims = [int(size) for size in tensor["dims"]]
        declared = [int(size) for size in warmup.get(tensor["name"], {}).get("dims", [])]
        if -1 in dims:
            dims = declared if len(declared) == len(dims) else [1 if size == -1 else size for size in dims]
        low, high = rules.get(tensor["name"], {}).get("range", (0, 0))
        feed_dict[tensor["name"]] = np.full((*batch, *dims), 0 if low <= 0 <= high else low, dtype)
    return feed_dict

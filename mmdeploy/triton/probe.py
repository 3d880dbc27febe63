"""Asks every served model one small question: the only readiness that means anything.

Triton reports a model as ready although its stub process is dead and every request fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.http import ask_json


def probe_models(grpc_url: str, http_url: str, *, timeout_s: float) -> dict[str, str | None]:
    """Ask every loaded model for one inference of batch 1; ensembles come last, after what they are made of.

    Args:
        grpc_url: ``host:port``.
        http_url: ``http://host:port``.
        timeout_s: For each request.

    Returns:
        By model name, None for an answer, else what went wrong. Models that cannot be asked so (strings,
        sequences, several responses a request) are left out. An ensemble is not asked after a failure of
        another model: it would fail too, and an ensemble's failure can lock Triton 2.51 up.

    Raises:
        ServerError: If the server itself does not answer.
    """
    names = loaded_models(http_url, timeout_s=timeout_s)
    configs = {name: ask_json(f"{http_url}/v2/models/{name}/config", timeout_s=timeout_s) for name in names}
    results: dict[str, str | None] = {}
    for name in sorted(configs, key=lambda name: "ensemble_scheduling" in configs[name]):
        feed_dict = probe_inputs(configs[name])
        if feed_dict is None:
            continue
        if "ensemble_scheduling" in configs[name] and any(results.values()):
            break
        results[name] = _ask(grpc_url, name, feed_dict, timeout_s)
    return results


def loaded_models(http_url: str, *, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the names of the models that are loaded, sorted."""
    index = ask_json(f"{http_url}/v2/repository/index", body={"ready": True}, timeout_s=timeout_s)
    return tuple(sorted({entry["name"] for entry in index}))


def probe_inputs(config: Mapping[str, Any]) -> dict[str, Array] | None:
    """Make inputs of batch 1 that the model must accept, from its config as Triton's HTTP endpoint gives it.

    Sizes that vary are taken from ``model_warmup`` where it has them, else 1. Values are zeros, or the lowest
    allowed value where zero is outside the range in the parameter ``mmdeploy.inputs``. None when the model
    cannot be asked so.
    """
    if "sequence_batching" in config or config.get("model_transaction_policy", {}).get("decoupled"):
        return None
    rules = json.loads(config.get("parameters", {}).get("mmdeploy.inputs", {}).get("string_value", "{}"))
    warmups: list[dict[str, Any]] = config.get("model_warmup", [])
    warmup: dict[str, Any] = warmups[0]["inputs"] if warmups else {}
    batch = (1,) if config.get("max_batch_size", 0) else ()
    feed_dict = {}
    for tensor in config["input"]:
        name, dtype = tensor["name"], NUMPY_BY_DTYPE.get(tensor["data_type"].removeprefix("TYPE_"))
        if dtype is None:
            return None
        declared = warmup.get(name, {}).get("dims", tensor["dims"])
        dims = [max(int(size), 1) if int(size) < 0 else int(size) for size in declared]
        low, high = rules.get(name, {}).get("range", (0, 0))
        feed_dict[name] = np.full((*batch, *dims), 0 if low <= 0 <= high else low, dtype)
    return feed_dict


def _ask(grpc_url: str, model: str, feed_dict: Mapping[str, Array], timeout_s: float) -> str | None:
    try:
        with GrpcRunner(grpc_url, model, timeout_s=timeout_s) as runner:
            runner.infer(feed_dict)
    except (InferenceError, ServerError) as error:
        return error.message
    return None

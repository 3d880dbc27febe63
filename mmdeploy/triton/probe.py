"""Asks every served model one small question: the only readiness that means anything.

Triton reports a model as ready although its stub process is dead and every request fails. A model whose queue is
full, or that does not come to the question in time, is well as long as it answers others. One whose answers are cached
is asked something else each time: the cache would answer for a dead stub.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.known_samples import Samples

Ranges: TypeAlias = Mapping[str, tuple[float, float]]

#: What Triton says when a request was not taken up because others were before it.
_BUSY = ("Exceeds maximum queue size", "Request timeout expired")
_BUSY_POLL_S = 0.2


def probe_models(
    grpc_url: str, http_url: str, *, timeout_s: float, samples: Samples = MappingProxyType({})
) -> dict[str, str | None]:
    """Ask every loaded model for one inference of batch 1; ensembles come last, after what they are made of.

    Args:
        grpc_url: ``host:port``.
        http_url: ``http://host:port``.
        timeout_s: For each request.
        samples: One sample of each model that is known; others are asked with made-up values.

    Returns:
        By model name, None for an answer, else what went wrong. Models that cannot be asked so (strings of which
        no sample is known, sequences, several responses a request) are left out. An ensemble is not asked after a
        failure of another model: it would fail too, and an ensemble's failure can lock Triton 2.51 up.

    Raises:
        ServerError: If the server itself does not answer.
    """
    names = loaded_models(http_url, timeout_s=timeout_s)
    configs = {name: ask_json(f"{http_url}/v2/models/{name}/config", timeout_s=timeout_s) for name in names}
    results: dict[str, str | None] = {}
    for name in sorted(configs, key=lambda name: "ensemble_scheduling" in configs[name]):
        ranges = declared_ranges(name, configs)
        feed_dict = probe_inputs(configs[name], ranges, samples.get(name, {}))
        if feed_dict is None:
            continue
        if configs[name].get("response_cache", {}).get("enable"):
            feed_dict = varied(feed_dict, ranges)
        if "ensemble_scheduling" in configs[name] and any(results.values()):
            break
        results[name] = _Question(grpc_url, http_url, name, feed_dict).ask(timeout_s)
    return results


def loaded_models(http_url: str, *, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the names of the models that are loaded, sorted.

    Taken from the statistics: the index of the repository is restricted on servers that mmdeploy starts.
    """
    statistics = ask_json(f"{http_url}/v2/models/stats", timeout_s=timeout_s)["model_stats"]
    return tuple(sorted({entry["name"] for entry in statistics}))


def probe_inputs(config: Mapping[str, Any], ranges: Ranges, sample: Mapping[str, Array]) -> dict[str, Array] | None:
    """Make inputs of batch 1 that the model must accept, from its config as Triton's HTTP endpoint gives it.

    Args:
        config: The model's.
        ranges: Lowest and highest value allowed, by input.
        sample: One sample of the inputs, without a batch axis; empty where none is known. Then, or where it is of
            another shape than the model takes, sizes that vary are taken from ``model_warmup`` where it has them,
            else 1. Values are zeros, or the lowest allowed value where zero is outside the range.

    Returns:
        Arrays by input; None when the model cannot be asked so.
    """
    if "sequence_batching" in config or config.get("model_transaction_policy", {}).get("decoupled"):
        return None
    warmups: list[dict[str, Any]] = config.get("model_warmup", [])
    warmup: dict[str, Any] = warmups[0]["inputs"] if warmups else {}
    batch = (1,) if config.get("max_batch_size", 0) else ()
    feed_dict = {}
    known = all(_fits(sample[one["name"]], one["dims"], batch) for one in config["input"] if one["name"] in sample)
    for tensor in config["input"]:
        name, dtype = tensor["name"], NUMPY_BY_DTYPE.get(tensor["data_type"].removeprefix("TYPE_"))
        strings = tensor["data_type"] == "TYPE_STRING"
        if dtype is None and not (strings and name in sample):
            if tensor.get("optional"):
                continue
            return None
        if known and name in sample:
            array = np.asarray(sample[name], object if strings else dtype)
            feed_dict[name] = array.reshape(1, *(array.shape or (1,)))  # Triton has no scalars
            continue
        if tensor.get("optional") and (sample or dtype == "bool"):
            continue  # what a sample lacks may be lacking; a mark without what it marks is none
        declared = warmup.get(name, {}).get("dims", tensor["dims"])
        dims = [max(int(size), 1) if int(size) < 0 else int(size) for size in declared]
        low, high = ranges.get(name, (0, 0))
        feed_dict[name] = np.full((*batch, *dims), 0 if low <= 0 <= high else low, dtype)
    return feed_dict


def varied(feed_dict: Mapping[str, Array], ranges: Ranges) -> dict[str, Array]:
    """Return inputs that a model takes if it takes these, and that it has hardly been asked before.

    Floating-point values move by the last bits, towards the middle of their range. Where there are none, whole numbers
    change places within their input: each stays one that is allowed.
    """
    random, changed = np.random.default_rng(), dict(feed_dict)
    for name, array in feed_dict.items():
        if array.dtype.kind == "f":
            low, high = ranges.get(name, (-1.0, 1.0))
            middle = np.full_like(array, (low + high) / 2)
            for _ in range(8):
                moved = np.nextafter(changed[name], middle)
                changed[name] = np.where(random.integers(2, size=array.shape, dtype=bool), moved, changed[name])
    if not any(array.dtype.kind == "f" for array in feed_dict.values()):
        for name, array in feed_dict.items():
            if array.dtype.kind in "iu":
                changed[name] = random.permutation(array.reshape(-1)).reshape(array.shape)
    return changed


def _fits(array: Array, dims: Sequence[Any], batch: tuple[int, ...]) -> bool:
    """Return whether a sample, without its batch axis, is of the shape that a model declares."""
    declared = [int(size) for size in (dims if batch else dims[1:])]
    given = list(array.shape) or ([1] if declared else [])
    return len(given) == len(declared) and all(size in (-1, real) for size, real in zip(declared, given, strict=True))


def declared_ranges(model: str, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the ranges that a model declares in its parameter ``mmdeploy.inputs``; an ensemble's are its steps'."""
    config = configs[model]
    rules = json.loads(config.get("parameters", {}).get("mmdeploy.inputs", {}).get("string_value", "{}"))
    found = {name: tuple(rule["range"]) for name, rule in rules.items() if "range" in rule}
    for step in config.get("ensemble_scheduling", {}).get("step", []):
        if step["model_name"] in configs:
            inner = declared_ranges(step["model_name"], configs)
            found |= {tensor: inner[name] for name, tensor in step["input_map"].items() if name in inner}
    return found


@dataclass(frozen=True)
class _Question:
    """One inference, and whom to ask whether others get theirs."""

    grpc_url: str
    http_url: str
    model: str
    feed_dict: Mapping[str, Array]

    def ask(self, timeout_s: float) -> str | None:
        """Return None for an answer, or where the model is busy answering others, else what went wrong."""
        deadline = time.monotonic() + timeout_s
        answered = self._answered()
        while True:
            try:
                with GrpcRunner(self.grpc_url, self.model, timeout_s=timeout_s) as runner:
                    runner.infer(self.feed_dict)
            except InferenceError as error:
                if not any(sign in error.message for sign in _BUSY):
                    return error.message
                if self._answered() > answered:
                    return None
                if time.monotonic() > deadline:
                    return error.message
                time.sleep(_BUSY_POLL_S)
            except ServerError as error:  # not in time, or the server is gone
                return None if self._answered() > answered else error.message
            else:
                return None

    def _answered(self) -> int:
        """Return how often the model has been run with success, the cache left out; 0 when nobody says."""
        try:
            versions = ask_json(f"{self.http_url}/v2/models/{self.model}/stats", timeout_s=10)["model_stats"]
        except (InferenceError, ServerError):
            return 0
        return sum(int(version["execution_count"]) for version in versions)

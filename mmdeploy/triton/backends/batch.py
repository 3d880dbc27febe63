"""What the Python-based backends share: requests checked, run as one batch, answered one by one.

Works inside Triton's python stub only. Inputs are checked by the rules in config.pbtxt's parameter
``mmdeploy.inputs``, such as ``{"ids": {"range": [0, 999], "tensor": "tokens"}}``: INT8 graphs give plausible
answers to NaN and to ids outside the vocabulary. Without a rule, floating inputs must be finite. ``sizes`` are those of
an input's axes, the batch left out: their bounds, and one length for each name. ``tensor`` is what
the ensemble calls the input, which is the name that its clients know. A request that breaks a rule, or that the
engine refuses, is answered with an error; the others of its batch are answered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]
Feed = dict[str, Array]


class RefusalError(Exception):
    """What a run raises to refuse a request in words that clients are told as they are."""


_FLOATS = ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64")
# Triton 2.51 deadlocks its gRPC endpoint when a step of an ensemble fails while the step beside it is still
# being scheduled: the callback holds the ensemble's lock and waits for the request's, the scheduling thread
# the other way round. So an error waits until scheduling, well under a millisecond, is surely over.
_ERROR_DELAY_S = 0.03


class BatchedModel:
    """Answers Triton's batches with runs of an engine.

    Attributes:
        inputs: Names of the inputs, as in config.pbtxt.
        outputs: Names of the outputs, in the order in which the engine gives them.
    """

    def __init__(self, config: Mapping[str, Any], run: Callable[[Feed], list[Array]], *, joins: bool = True) -> None:
        """Read the model's config.

        Args:
            config: The model's config as Triton gives it to a stub.
            run: Runs the engine on a feed dict; returns the outputs in the order of config.pbtxt.
            joins: Whether requests that are waiting together are run as one.
        """
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self._name = config["name"]
        self._run_engine = run
        self._joins = joins and config["max_batch_size"] > 0
        rules = json.loads(string_parameters(config).get("mmdeploy.inputs", "{}"))
        checks = ((tensor["name"], _check(tensor, rules)) for tensor in config["input"])
        self._checks = [(name, check) for name, check in checks if check is not None]
        self._sizes = {name: rules[name]["sizes"] for name in self.inputs if "sizes" in rules.get(name, {})}
        self._shown = {name: _shown(name, rules.get(name, {}).get("tensor", name)) for name in self.inputs}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, in order."""
        feeds = [self._feed(request) for request in requests]
        alone = len(feeds) == 1 or not self._joins
        answers = [self._run(feed) for feed in feeds] if alone else self._run_joined(feeds)
        responses: list[Any] = []
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, str):
                _fail_later(request, answer)
                responses.append(None)  # answered through its own response sender
            else:
                responses.append(self._response(request, answer))
        return responses

    def _feed(self, request: Any) -> Feed:
        tensors = [(name, pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs]
        return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}

    def _run(self, feed: Feed) -> list[Array] | str:
        """Return the outputs, or what is wrong with the request."""
        if (misfit := self._misfit(feed)) is not None:
            return f"{misfit} (in {self._name})"
        for name, check in self._checks:
            if name in feed and (wrong := check(feed[name])) is not None:
                return f"{self._shown[name]}: {wrong} (in {self._name})"
        try:
            return self._run_engine(feed)
        except RefusalError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  whatever an engine raises belongs to this request only
            return f"{type(error).__name__}: {error}"

    def _misfit(self, feed: Feed) -> str | None:
        """Say what is wrong with the lengths of a request; None where they are right."""
        found: dict[str, tuple[int, str]] = {}
        for name, sizes in self._sizes.items():
            for size, length in zip(sizes, feed[name].shape[1:], strict=False) if name in feed else ():
                if size is None:
                    continue
                if not size["min"] <= length <= size["max"] or length % size["multiple_of"]:
                    steps = f" in steps of {size['multiple_of']}" if size["multiple_of"] > 1 else ""
                    accepted = f"accepted for {size['name']!r}: {size['min']} to {size['max']}{steps}"
                    return f"{self._shown[name]}: a length of {length}, {accepted}"
                other, where = found.setdefault(size["name"], (length, name))
                if other != length:
                    both = f"both are {size['name']!r}, one length in a request"
                    return f"{self._shown[name]} is {length} long where {self._shown[where]} is {other}: {both}"
        return None

    def _run_joined(self, feeds: Sequence[Feed]) -> list[Any]:
        """Run several requests as one; when anything is wrong, each alone, so that it hits its cause only."""
        try:
            joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        except (KeyError, ValueError):  # an optional input is missing, or shapes differ
            return [self._run(feed) for feed in feeds]
        outputs = self._run(joined)
        if isinstance(outputs, str):
            return [self._run(feed) for feed in feeds]
        first = self.inputs[0]
        ends = np.cumsum([len(feed[first]) for feed in feeds[:-1]]).tolist()
        bounds = list(zip([0, *ends], [*ends, None], strict=True))
        return [[output[start:end] for output in outputs] for start, end in bounds]

    def _response(self, request: Any, arrays: Sequence[Array]) -> Any:
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def string_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return config.pbtxt's ``parameters``."""
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _fail_later(request: Any, message: str) -> None:
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
    arguments = (response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    timer = threading.Timer(_ERROR_DELAY_S, request.get_response_sender().send, arguments)
    timer.daemon = True
    timer.start()


def _check(tensor: Mapping[str, Any], rules: Mapping[str, Any]) -> Callable[[Array], str | None] | None:
    """Return a function that says what is wrong with an input's values, or None when any value will do."""
    rule = rules.get(tensor["name"], {})
    if "range" in rule:
        low, high = rule["range"]

        def outside(array: Array) -> str | None:
            if array.size == 0 or (low <= array.min() and array.max() <= high):
                return None
            return f"values must be within [{low}, {high}], found [{array.min()}, {array.max()}]"

        return outside
    return _not_finite if tensor["data_type"] in _FLOATS and rule.get("finite", True) else None


def _shown(name: str, tensor: str) -> str:
    """Name an input as clients of the ensemble know it, and as the model does where that is another name."""
    return f"input {name!r}" if tensor == name else f"input {tensor!r} ({name!r} of this step)"


def _not_finite(array: Array) -> str | None:
    finite = np.isfinite(array)
    if finite.all():
        return None
    return f"{array.size - np.count_nonzero(finite)} of {array.size} values are NaN or infinite"

"""Triton's ``onnxruntime`` backend for servers that have only the python backend.

Triton loads this file for every model whose config.pbtxt says ``backend: "onnxruntime"`` when it lies in
``<backend-directory>/onnxruntime/model.py``. It reads what the native backend reads:
``default_model_filename``, ``parameters`` (threads, execution mode, session config entries) and
``optimization.graph.level``. Unless the parameters say otherwise, a session takes the cores of the machine
and does not spin, as several sessions share them.

Requests that Triton batched run as one ONNX Runtime run. Inputs are checked by the rules in the parameter
``mmdeploy.inputs``, such as ``{"tokens": {"range": [0, 999]}, "waveform": {"finite": true}}``: INT8 graphs
give plausible answers to NaN and to ids outside the vocabulary. Without a rule, floating inputs must be
finite. A request that breaks a rule is answered with an error; the others of its batch are answered.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]
Feed = dict[str, Array]

_FLOATS = ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64")
# Triton 2.51 deadlocks its gRPC endpoint when a step of an ensemble fails while the step beside it is still
# being scheduled: the callback holds the ensemble's lock and waits for the request's, the scheduling thread
# the other way round. So an error waits until scheduling, well under a millisecond, is surely over.
_ERROR_DELAY_S = 0.03


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session; anything raised here is Triton's reason for refusing the model."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.session = _open(config, parameters, args)
        self.batched = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        _require_names(self.inputs, self.session.get_inputs(), "input")
        _require_names(self.outputs, self.session.get_outputs(), "output")
        rules = json.loads(parameters.get("mmdeploy.inputs", "{}"))
        checks = ((tensor["name"], _check(tensor, rules)) for tensor in config["input"])
        self.checks = [(name, check) for name, check in checks if check is not None]
        # What is loaded now lives as long as the process; the collector would walk it again and again.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, in order."""
        feeds = [self._feed(request) for request in requests]
        if len(feeds) == 1 or not self.batched:
            answers = [self._run(feed) for feed in feeds]
        else:
            answers = self._run_joined(feeds)
        responses: list[Any] = []
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, str):
                _fail_later(request, answer)
                responses.append(None)  # answered through its own response sender
            else:
                responses.append(self._response(answer))
        return responses

    def _feed(self, request: Any) -> Feed:
        tensors = (pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs)
        return {
            name: tensor.as_numpy()
            for name, tensor in zip(self.inputs, tensors, strict=True)
            if tensor is not None
        }

    def _run(self, feed: Feed) -> list[Array] | str:
        """Return the outputs, or what is wrong with the request."""
        for name, check in self.checks:
            if name in feed and (wrong := check(feed[name])) is not None:
                return f"input {name!r}: {wrong}"
        try:
            outputs: list[Array] = self.session.run(self.outputs, feed)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no common class of their own
            return f"ONNX Runtime: {error}"
        return outputs

    def _run_joined(self, feeds: Sequence[Feed]) -> list[Any]:
        """Run several requests as one; when anything is wrong, each alone, so that it hits its cause only."""
        try:
            joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        except (KeyError, ValueError):
            return [self._run(feed) for feed in feeds]
        outputs = self._run(joined)
        if isinstance(outputs, str):
            return [self._run(feed) for feed in feeds]
        first = self.inputs[0]
        ends = np.cumsum([len(feed[first]) for feed in feeds[:-1]]).tolist()
        bounds = list(zip([0, *ends], [*ends, None], strict=True))
        return [[output[start:end] for output in outputs] for start, end in bounds]

    def _response(self, arrays: Sequence[Array]) -> Any:
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _open(config: Mapping[str, Any], parameters: Mapping[str, str], args: Mapping[str, str]) -> Any:
    from mmdeploy.sessions import open_session

    folder = Path(args["model_repository"]) / args["model_version"]
    providers = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU":
        os.environ["CUDA_VISIBLE_DEVICES"] = args[
            "model_instance_device_id"
        ]  # this process serves one instance
        providers.insert(0, "CUDAExecutionProvider")
    defaults = {
        "intra_op_thread_count": str(len(os.sched_getaffinity(0))),
        "session.intra_op.allow_spinning": "0",
    }
    return open_session(
        folder / (config.get("default_model_filename") or "model.onnx"),
        defaults | dict(parameters),
        providers=providers,
        graph_level=str(config.get("optimization", {}).get("graph", {}).get("level", 0)),
    )


def _require_names(names: Sequence[str], nodes: Sequence[Any], side: str) -> None:
    present = [node.name for node in nodes]
    unknown = [name for name in names if name not in present]
    if unknown or (side == "input" and len(names) < len(present)):
        raise ValueError(f"config.pbtxt has the {side}s {list(names)}, the model has {present}")


def _fail_later(request: Any, message: str) -> None:
    response = pb_utils.InferenceResponse(
        error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
    )
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


def _not_finite(array: Array) -> str | None:
    finite = np.isfinite(array)
    if finite.all():
        return None
    return f"{array.size - np.count_nonzero(finite)} of {array.size} values are NaN or infinite"

"""Triton's ``onnxruntime`` backend for servers that have only the python backend.

Triton loads this file for every model whose config.pbtxt says ``backend: "onnxruntime"`` when it lies in
``<backend-directory>/onnxruntime/model.py``. It reads what the native backend reads: ``default_model_filename``,
``parameters`` (threads, execution mode, session config entries), ``optimization.graph.level``. Unless the
parameters say otherwise a session takes the cores of the machine and does not spin, as several share them.

Requests that Triton batched run as one ONNX Runtime run. Each request is checked by the rules in the parameter
``mmdeploy.inputs``, such as ``{"tokens": {"range": [0, 999]}, "waveform": {"finite": true}}``: INT8 graphs give
plausible answers to NaN and to ids outside the vocabulary. Without a rule, floating inputs must be finite. A
request that breaks a rule is answered with an error; the others of its batch are answered.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

_FLOATS = ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64")


class TritonPythonModel:
    """One instance of one model version."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Fill in inputs and outputs from the graph where config.pbtxt leaves them out."""
        return auto_complete_model_config

    def initialize(self, args):
        """Open the session; anything raised here is Triton's reason for refusing the model."""
        from mmdeploy.sessions import open_session

        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        model = folder / (config.get("default_model_filename") or "model.onnx")
        level = str(config.get("optimization", {}).get("graph", {}).get("level", 0))
        defaults = {
            "intra_op_thread_count": str(len(os.sched_getaffinity(0))),
            "session.intra_op.allow_spinning": "0",
        }
        self.session = open_session(model, defaults | parameters, graph_level=level)
        self.batched = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        rules = json.loads(parameters.get("mmdeploy.inputs", "{}"))
        self.checks = [
            check for tensor in config["input"] if (check := _check(tensor, rules.get(tensor["name"], {}))) is not None
        ]
        gc.collect()
        gc.freeze()

    def execute(self, requests):
        """Answer the requests of one batch."""
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        responses = [self._refusal(feed) for feed in feeds]
        good = [index for index, response in enumerate(responses) if response is None]
        if self.batched and len(good) > 1:
            self._run_batch(feeds, good, responses)
        else:
            for index in good:
                responses[index] = self._run(feeds[index])
        return responses

    def _run(self, feed):
        try:
            return self._response(self.session.run(self.outputs, feed))
        except Exception as error:
            return _error(f"ONNX Runtime: {error}")

    def _run_batch(self, feeds, good, responses):
        """Run several requests as one; when that fails, each alone, so that the error meets its cause."""
        joined = {name: np.concatenate([feeds[index][name] for index in good]) for name in self.inputs}
        try:
            answers = self.session.run(self.outputs, joined)
        except Exception:
            for index in good:
                responses[index] = self._run(feeds[index])
            return
        start = 0
        for index in good:
            end = start + len(feeds[index][self.inputs[0]])
            responses[index] = self._response([answer[start:end] for answer in answers])
            start = end

    def _response(self, arrays):
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        )

    def _refusal(self, feed):
        for name, broken in self.checks:
            message = broken(feed[name])
            if message:
                return _error(f"input {name!r}: {message}")
        return None


def _error(message):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))


def _check(tensor, rule):
    """Return the input's name and a function that says what is wrong with its values, or None."""
    if "range" in rule:
        low, high = rule["range"]

        def outside(array):
            if array.size and not (low <= array.min() and array.max() <= high):
                return f"values must be within [{low}, {high}], found [{array.min()}, {array.max()}]"
            return None

        return tensor["name"], outside
    if tensor["data_type"] in _FLOATS and rule.get("finite", True):

        def not_finite(array):
            # A sum is several times cheaper than isfinite; it is finite only if every value is (or it overflowed).
            if np.isfinite(np.add.reduce(array, axis=None)) or np.isfinite(array).all():
                return None
            return f"{int(np.count_nonzero(~np.isfinite(array)))} values are NaN or infinite"

        return tensor["name"], not_finite
    return None

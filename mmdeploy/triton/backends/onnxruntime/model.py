"""Triton's ``onnxruntime`` backend for servers that have only the python backend.

Triton loads this file for every model whose config.pbtxt says ``backend: "onnxruntime"`` when it lies in
``<backend-directory>/onnxruntime/model.py``. It reads what the native backend reads:
``default_model_filename``, ``parameters`` (threads, execution mode, session config entries),
``optimization.graph.level`` and the states of ``sequence_batching``. Unless the parameters say otherwise, a session
takes the cores of the machine and does not spin, as several sessions share them. Batches and checks:
`mmdeploy.triton.backends.batch`; states: `mmdeploy.triton.backends.streams`.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.sessions import CPU, CUDA, open_session
from mmdeploy.core.target import usable_cores
from mmdeploy.triton.backends.batch import BatchedModel, string_parameters
from mmdeploy.triton.backends.streams import StreamModel, keeps_state
from mmdeploy.triton.graph_match import DTYPE_BY_ORT, GraphTensor, mismatch


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session; anything raised here is Triton's reason for refusing the model."""
        config = json.loads(args["model_config"])
        self.session = _open(config, args)
        made = StreamModel if keeps_state(config) else BatchedModel
        model = made(config, lambda feed: self.session.run(model.outputs, feed))
        _require_names(model.inputs, self.session.get_inputs(), "input")
        _require_names(model.outputs, self.session.get_outputs(), "output")
        _require_tensors(config, "input", self.session.get_inputs())
        _require_tensors(config, "output", self.session.get_outputs())
        self.model = model
        # What is loaded now lives as long as the process; the collector would walk it again and again.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        return self.model.execute(requests)


def _open(config: Mapping[str, Any], args: Mapping[str, str]) -> Any:
    folder = Path(args["model_repository"]) / args["model_version"]
    providers: Sequence[str] = CPU
    if args["model_instance_kind"] == "GPU":
        os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]  # a process serves one instance
        providers = CUDA
    defaults = {
        "intra_op_thread_count": str(usable_cores()),
        "session.intra_op.allow_spinning": "0",
    }
    return open_session(
        folder / (config.get("default_model_filename") or "model.onnx"),
        defaults | string_parameters(config),
        providers=providers,
        graph_level=str(config.get("optimization", {}).get("graph", {}).get("level", 0)),
    )


def _require_names(names: Sequence[str], nodes: Sequence[Any], side: str) -> None:
    present = [node.name for node in nodes]
    unknown = [name for name in names if name not in present]
    if unknown or (side == "input" and len(names) < len(present)):
        raise ValueError(f"config.pbtxt has the {side}s {list(names)}, the model has {present}")


def _require_tensors(config: Mapping[str, Any], side: str, nodes: Sequence[Any]) -> None:
    """Refuse types and shapes that the native backend would refuse."""
    graph = {node.name: _graph_tensor(node) for node in nodes}
    for tensor in config[side]:
        dims = tensor.get("reshape", {}).get("shape", tensor["dims"])
        dtype = tensor["data_type"].removeprefix("TYPE_")
        wrong = mismatch(graph[tensor["name"]], dtype, list(map(int, dims)), batched=config["max_batch_size"] > 0)
        if wrong is not None and not tensor.get("allow_ragged_batch"):
            raise ValueError(f"{side} {tensor['name']!r}: {wrong}")


def _graph_tensor(node: Any) -> GraphTensor:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return GraphTensor(node.name, DTYPE_BY_ORT.get(node.type.removeprefix("tensor(").removesuffix(")"), ""), shape)

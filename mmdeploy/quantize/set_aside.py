"""Graphs whose weights lie in a file, where ONNX Runtime maps them into memory: what is run while others are made.

A graph in one file is held four times while it is opened: by its owner, by protobuf that writes it and that reads it,
and by the session. Of one that is set aside nothing is held but the pages that are being read.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Collection, Sequence
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.sessions import open_session
from mmdeploy.core.temporary import hold_folder

#: Weights that stay in the graph: shapes and the like, which ONNX Runtime wants to see there.
_INLINE_BYTES = 1024
_PAGE_BYTES = 4096
_WEIGHTS = "weights.data"
#: Weights in the order that kernels want are a copy of all of them; without, a run takes a few percent longer.
_AS_MAPPED = {"session.disable_prepacking": "1"}


class SetAside:
    """A graph that is not going to change.

    Attributes:
        model: The graph, its large weights being where they lie in a file.
    """

    def __init__(self, model: Any) -> None:
        """Write the weights of a graph to a file, which is there as long as this is."""
        import onnx

        graph_passes.sort_nodes(model)
        folder = hold_folder("weights")
        weakref.finalize(self, folder.remove)
        self._folder, self.model = folder.path, onnx.ModelProto()
        _copy_without_weights(model, self.model)
        with (folder.path / _WEIGHTS).open("wb") as file:
            for weight in model.graph.initializer:
                _write_weight(weight, self.model.graph.initializer.add(), file)

    @property
    def graph(self) -> Any:
        """Nodes, inputs and outputs."""
        return self.model.graph

    def whole(self) -> Any:
        """Return the graph with its weights, for somebody who changes it."""
        import onnx
        from onnx.external_data_helper import load_external_data_for_model

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        load_external_data_for_model(model, str(self._folder))
        for weight, bare in zip(model.graph.initializer, self.model.graph.initializer, strict=True):
            if bare.external_data:
                weight.ClearField("data_location")  # as it was
        return model

    def session(self, threads: int, outputs: Sequence[Any] = (), *, level: str | None = None) -> Any:
        """Open a session.

        Args:
            threads: Threads for ONNX Runtime.
            outputs: Value infos of what it gives instead of the graph's own outputs.
            level: As `mmdeploy.core.sessions.open_session` takes it.
        """
        import onnx

        own, path = list(self.graph.output), self._folder / "model.onnx"
        try:
            if outputs:
                del self.graph.output[:]
                self.graph.output.extend(outputs)
            onnx.save_model(self.model, path)
        finally:
            del self.graph.output[:]
            self.graph.output.extend(own)
        return open_session(path, {"intra_op_thread_count": str(threads), **_AS_MAPPED}, graph_level=level)


def set_aside(model: Any) -> SetAside:
    """Return a graph set aside; as it is where it has been already."""
    return model if isinstance(model, SetAside) else SetAside(model)


def whole(model: Any) -> Any:
    """Return a copy of a graph, with its weights."""
    return model.whole() if isinstance(model, SetAside) else compact(model)


def compact(model: Any, *, without: Collection[str] = ()) -> Any:
    """Return a copy of a graph, without some weights: protobuf holds what is taken out of one until all is let go."""
    import onnx

    copied = onnx.ModelProto()
    _copy_without_weights(model, copied)
    for weight in model.graph.initializer:
        if weight.name not in without:
            copied.graph.initializer.add().CopyFrom(weight)
    return copied


def hand_back() -> None:
    """Give the system the memory of graphs that were let go, of ONNX Runtime's quantizers too, which hold themselves.

    glibc keeps it otherwise, since weights lie between what is still held.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _copy_without_weights(message: Any, bare: Any) -> None:
    for field, value in message.ListFields():
        if field.name == "graph":
            _copy_without_weights(value, bare.graph)
        elif field.name == "initializer":
            continue
        elif isinstance(value, int | float | str | bytes):
            setattr(bare, field.name, value)
        else:
            getattr(bare, field.name).MergeFrom(value)


def _write_weight(weight: Any, bare: Any, file: Any) -> None:
    values = weight.raw_data
    if len(values) < _INLINE_BYTES:
        bare.CopyFrom(weight)
        return
    bare.name, bare.data_type, bare.data_location = weight.name, weight.data_type, bare.EXTERNAL
    bare.dims.extend(weight.dims)
    file.write(bytes(-file.tell() % _PAGE_BYTES))
    for key, value in (("location", _WEIGHTS), ("offset", str(file.tell())), ("length", str(len(values)))):
        bare.external_data.add(key=key, value=value)
    file.write(values)

"""Graphs in files are what protobuf writes, byte for byte."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmdeploy.core.graph_writing import write_graph

LARGE = 70_000


def model(*weights: Any, **fields: Any) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", [x], [y], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **fields)


def tensor(name: str, elements: int, kind: str = "float32") -> onnx.TensorProto:
    return numpy_helper.from_array((np.arange(elements) % 100).astype(kind), name)


def of_type(kind: int, bytes_each: float) -> onnx.TensorProto:
    return helper.make_tensor("a", kind, [2 * LARGE], bytes(int(2 * LARGE * bytes_each)), raw=True)


def everything() -> onnx.ModelProto:
    """Fields on both sides of the weights, at each level."""
    made = model(tensor("a", LARGE), tensor("small", 3), tensor("codes", LARGE, "int8"), producer_name="test")
    made.doc_string, made.model_version = "words", 2**40
    made.metadata_props.add(key="k", value="v")
    made.functions.add(name="f", domain="d")
    made.graph.doc_string = "a graph"
    made.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    made.graph.metadata_props.add(key="k", value="v")
    made.graph.sparse_initializer.add().dims.append(1)
    made.graph.initializer[0].doc_string = "weights"
    made.graph.initializer[0].segment.begin = 0
    made.graph.initializer[2].data_location = TensorProto.DEFAULT
    made.graph.initializer[2].metadata_props.add(key="k", value="v")
    return made


def with_typed_values() -> onnx.ModelProto:
    return model(helper.make_tensor("a", TensorProto.FLOAT, [LARGE], np.zeros(LARGE)), tensor("b", LARGE))


def of_another_shape() -> onnx.ModelProto:
    """More values than the shape says, behind a weight that is as it should be."""
    made = model(tensor("a", LARGE), tensor("b", LARGE), tensor("c", LARGE))
    made.graph.initializer[1].dims[0] = LARGE - 1
    return made


def with_control_flow() -> onnx.ModelProto:
    made = model(tensor("a", LARGE))
    body = model(tensor("inside", LARGE)).graph
    made.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body))
    return made


def of_a_later_onnx(where: str) -> onnx.ModelProto:
    """A field that is not known, number 99: a text of 2 bytes."""
    made = model(tensor("a", LARGE))
    part = {"model": made, "graph": made.graph, "tensor": made.graph.initializer[0]}[where]
    part.MergeFromString(b"\x9a\x06\x02ok")
    return made


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(everything(), id="every level"),
        pytest.param(with_typed_values(), id="typed values"),
        pytest.param(with_control_flow(), id="control flow"),
        pytest.param(of_another_shape(), id="other values than the shape says"),
        *(
            pytest.param(model(of_type(kind, size)), id=f"type {kind}")
            for kind, size in ((TensorProto.DOUBLE, 8), (TensorProto.INT4, 0.5), (TensorProto.FLOAT8E4M3FN, 1))
        ),
        *(pytest.param(of_a_later_onnx(where), id=f"unknown field: {where}") for where in ("model", "graph", "tensor")),
        pytest.param(model(tensor("empty", 0)), id="an empty weight"),
        pytest.param(model(), id="no weights"),
        pytest.param(onnx.ModelProto(ir_version=9), id="no graph"),
    ],
)
def test_the_file_is_what_protobuf_writes(made: onnx.ModelProto, tmp_path: Path) -> None:
    before = made.SerializeToString()
    write_graph(made, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert made.SerializeToString() == before


@pytest.mark.parametrize("elements", [2**16 - 1, 2**16, 2**16 + 1, 2**21])
def test_lengths_of_every_number_of_bytes_are_written(elements: int, tmp_path: Path) -> None:
    made = model(tensor("a", elements, "uint8"))
    write_graph(made, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == made.SerializeToString()

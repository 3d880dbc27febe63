"""Gives the recurrent layers of an ONNX graph their state from outside, and gives it back.

What it does: a layer of ONNX's GRU, LSTM or RNN that begins with zeros begins with an input of the graph instead, and
what it ends with becomes an output; nothing else changes. So a graph that was exported, quantized and judged on whole
samples takes them in chunks: with zeros first and what came out after, it computes the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import EngineError
from mmdeploy.core.graph_passes import bodies, with_bodies

if TYPE_CHECKING:
    import onnx

#: By operator: which inputs are states, the outputs that they end as, and what they are called.
_STATES = {"GRU": ((5, 1, "hidden"),), "RNN": ((5, 1, "hidden"),), "LSTM": ((5, 1, "hidden"), (6, 2, "cell"))}
_WEIGHTS = 2  # place of the recurrent weights among the inputs, which say the type
_LENGTHS = 4  # place of sequence_lens
_DTYPES = {1: "FP32", 10: "FP16", 11: "FP64"}
#: Operators that give zeros of zeros, by the places of what they are given; None for all places.
_PASS_ON: dict[str, tuple[int, ...] | None] = {
    "Expand": (0,), "Slice": (0,), "Identity": (0,), "Cast": (0,), "CastLike": (0,), "Reshape": (0,), "Squeeze": (0,),
    "Unsqueeze": (0,), "Transpose": (0,), "Split": (0,), "Gather": (0,), "Tile": (0,), "Concat": None,
}  # fmt: skip


@dataclass(frozen=True)
class State:
    """A state that a graph takes and gives.

    Attributes:
        input: Name of the input.
        output: Name of the output, which is the input of the next request.
        dtype: Triton's name of the type.
        size: Values of a row; the tensor is [N, size].
    """

    input: str
    output: str
    dtype: str
    size: int


def states_of(path: Path, component: str) -> tuple[State, ...]:
    """Return the states of the recurrent layers in a graph's file.

    Args:
        path: An ONNX file; of external data only what layers begin with is read.
        component: Its name, for messages.

    Raises:
        EngineError: If there is no such layer, or one that a stream cannot go through, or external data is missing.
    """
    return carry(_loaded(path), component, path.parent)


def written(path: Path, component: str) -> bytes:
    """Return the graph of a file with its states taken from outside; external data stays in its files."""
    model = _loaded(path)
    carry(model, component, path.parent)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path, load_external_data=False)


def carry(model: onnx.ModelProto, component: str, folder: Path) -> tuple[State, ...]:
    """Change a graph in place; return its states in the order of the layers.

    Args:
        model: With its graph; external data need not be loaded.
        component: Its name, for messages.
        folder: Where files of external data lie.

    Raises:
        EngineError: As `states_of` does.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    _require_nothing_hidden(graph, component)
    layers = [node for node in graph.node if node.op_type in _STATES and node.domain in ("", "ai.onnx")]
    if not layers:
        raise EngineError(
            f"{component}: stream.keep names it, and there is no GRU, LSTM or RNN in its graph, so no state to keep",
            hint="name the component with the recurrent layer",
        )
    taken = {*(value.name for side in (graph.input, graph.output, graph.initializer) for value in side)}
    taken |= {name for node in graph.node for name in (*node.input, *node.output)}
    axis = _fresh("state_axis", taken)
    graph.initializer.append(helper.make_tensor(axis, TensorProto.INT64, [1], [0]))
    found, before, after = list[State](), list[Any](), list[Any]()
    for index, layer in enumerate(layers):
        _require_forwards(layer, component)
        for begins, ends, kind in _STATES[layer.op_type]:
            _require_zeros(graph, layer, begins, component, folder)
            state = _state(graph, layer, _fresh(f"{kind}_{index}", taken), _fresh(f"next_{kind}_{index}", taken))
            first, last = _fresh(f"{state.input}_first", taken), _fresh(f"{state.output}_last", taken)
            _put(layer.input, begins, first)
            last = _put(layer.output, ends, last, keep=True)
            before.append(helper.make_node("Unsqueeze", [state.input, axis], [first]))
            after.append(helper.make_node("Squeeze", [last, axis], [state.output]))
            kinds = {name: number for number, name in _DTYPES.items()}
            for side, name in ((graph.input, state.input), (graph.output, state.output)):
                side.append(helper.make_tensor_value_info(name, kinds[state.dtype], ["batch", state.size]))
            found.append(state)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return tuple(found)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _put(names: Any, place: int, name: str, *, keep: bool = False) -> str:
    """Write a name at a place among the inputs or outputs of a node; return what stands there."""
    names.extend([""] * (place + 1 - len(names)))
    if not (keep and names[place]):
        names[place] = name
    return str(names[place])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _state(graph: onnx.GraphProto, layer: onnx.NodeProto, name: str, output: str) -> State:
    weights = next((one.data_type for one in graph.initializer if one.name == layer.input[_WEIGHTS]), 1)
    return State(name, output, _DTYPES.get(weights, "FP32"), int(_attributes(layer)["hidden_size"]))


def _require_nothing_hidden(graph: onnx.GraphProto, component: str) -> None:
    """Refuse layers whose state cannot be taken out: they would begin anew in each chunk, and be nearly right."""
    for node in graph.node:
        inside = (inner for body in bodies(node) for within in with_bodies(body) for inner in within.node)
        for one in (node, *inside):
            if one.op_type == "DynamicQuantizeLSTM":
                raise EngineError(
                    f"{component}: its {one.op_type}, of dynamic quantization, has a state that cannot be kept",
                    hint="quantize it statically, or not at all",
                )
            if one is not node and one.op_type in _STATES:
                raise EngineError(
                    f"{component}: a {one.op_type} stands inside of {node.op_type}, where its state cannot be kept",
                    hint="write forward without the branch or the loop around it",
                )


def _require_forwards(layer: onnx.NodeProto, component: str) -> None:
    attributes = _attributes(layer)
    direction = attributes.get("direction", b"forward").decode()
    if direction != "forward":
        raise EngineError(
            f"{component}: its {layer.op_type} reads {direction}, from an end that a stream has not reached yet",
            hint="train it to read forwards only, or send samples whole and take `stream` out",
        )
    if len(layer.input) > _LENGTHS and layer.input[_LENGTHS]:
        raise EngineError(
            f"{component}: its {layer.op_type} is told how long each sequence is, and a chunk is not the sequence",
            hint="write forward without packed sequences: a chunk of a stream has no padding",
        )
    if attributes.get("layout", 0):
        raise EngineError(f"{component}: its {layer.op_type} has layout 1; export it with the sequence first")


def _require_zeros(graph: onnx.GraphProto, layer: onnx.NodeProto, place: int, component: str, folder: Path) -> None:
    from onnx.checker import ValidationError

    name = layer.input[place] if len(layer.input) > place else ""
    try:
        begins_with_zeros = not name or all(_zeros(graph, name, folder))
    except (OSError, ValueError, ValidationError) as error:  # a file that is not there, or is cut off
        raise EngineError(
            f"{component}: what its {layer.op_type} begins with lies in a file of external data that cannot be read: "
            f"{error}",
            hint="keep the files of external data beside the graph",
        ) from error
    if not begins_with_zeros:
        raise EngineError(
            f"{component}: its {layer.op_type} begins with something else than zeros, and Triton begins a sequence "
            "with zeros",
            hint="give the layer no first state in forward",
        )


def _zeros(graph: onnx.GraphProto, name: str, folder: Path) -> Iterator[bool]:
    """Say of all that a tensor is made of whether it is zeros."""
    constant = next((one for one in graph.initializer if one.name == name), None)
    if constant is not None:
        yield _is_zeros(constant, folder)
        return
    node = next((one for one in graph.node if name in one.output), None)
    if node is None:
        yield False
    elif node.op_type in ("Constant", "ConstantOfShape"):
        value = _attributes(node).get("value")
        yield node.op_type == "ConstantOfShape" if value is None else _is_zeros(value, folder)
    elif node.op_type in _PASS_ON:
        places = _PASS_ON[node.op_type]
        for own in node.input if places is None else [node.input[place] for place in places]:
            yield from _zeros(graph, own, folder)
    else:
        yield False


def _is_zeros(tensor: onnx.TensorProto, folder: Path) -> bool:
    from onnx import numpy_helper

    return not numpy_helper.to_array(tensor, base_dir=str(folder)).any()

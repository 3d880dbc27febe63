"""Names of nodes that mean something: the module that made a node, then its operator.

The exporter numbers nodes (``node_MatMul_35``) and keeps the module path in their metadata. Numbers change
with any edit of the model; module paths are what the author of a recipe knows.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdeploy.core import graph_passes

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_module(proto: Any, *, prefix: str) -> None:
    """Rename every node to ``<module path>/<op type>`` in place, and drop the exporter's metadata.

    A second node of one operator in one module gets ``_1``, a third ``_2``. The metadata hold paths of the
    machine that exported; without them equal models give equal bytes wherever they lie.

    Args:
        proto: The ``onnx.ModelProto``.
        prefix: Attribute of the wrapper that was exported, taken off module paths and weight names.
    """
    seen: Counter[str] = Counter()
    for graph in graph_passes.with_bodies(proto.graph):
        for node in graph.node:
            scope = _module_path(node, prefix)
            name = f"{scope}/{node.op_type}" if scope else node.op_type
            node.name = f"{name}_{seen[name]}" if seen[name] else name
            seen[name] += 1
        values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        for holder in (graph, *graph.node, *values):
            del holder.metadata_props[:]
            holder.ClearField("doc_string")
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    _shorten_weights(proto.graph, f"{prefix}.")


def name_ends(proto: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name the graph's inputs and outputs in place; a tensor inside that has such a name gets another.

    Args:
        proto: The ``onnx.ModelProto``.
        inputs: Names in the graph's order.
        outputs: Names in the graph's order.
    """
    main = proto.graph
    names = {value.name: name for value, name in zip(main.input, inputs, strict=True)}
    names |= {value.name: name for value, name in zip(main.output, outputs, strict=True)}
    graphs = list(graph_passes.with_bodies(main))
    taken = {name for graph in graphs for node in graph.node for name in (*node.input, *node.output)}
    taken.update(weight.name for graph in graphs for weight in graph.initializer)
    wanted = set(names.values())
    for clash in sorted((taken - set(names)) & wanted):
        other = f"{clash}_inside"
        while other in taken | wanted:
            other += "_"
        names[clash] = other
        taken.add(other)
    for graph in graphs:
        for node in graph.node:
            for side in (node.input, node.output):
                for index, name in enumerate(side):
                    side[index] = names.get(name, name)
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)


def _module_path(node: Any, prefix: str) -> str:
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    try:
        scopes = [str(scope) for scope in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return ""
    modules = [scope for scope in scopes[:-1] if scope == prefix or scope.startswith(f"{prefix}.")]
    return modules[-1].removeprefix(prefix).removeprefix(".") if modules else ""


def _shorten_weights(main: Any, prefix: str) -> None:
    graphs = list(graph_passes.with_bodies(main))
    taken = {value.name for graph in graphs for value in (*graph.input, *graph.initializer)}
    taken.update(name for graph in graphs for node in graph.node for name in node.output)
    short: dict[str, str] = {}
    for weight in main.initializer:
        name = weight.name.removeprefix(prefix)
        if name != weight.name and name not in taken:
            short[weight.name] = name
            weight.name = name
    for graph in graphs:
        for node in graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = short.get(name, name)
        for value in (*graph.value_info, *graph.output):
            value.name = short.get(value.name, value.name)

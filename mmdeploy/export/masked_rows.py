"""Rows of attention in which everything is masked: 0, as PyTorch gives it, in place of the mean or NaN.

``scaled_dot_product_attention`` gives 0 for a query that may attend to nothing: a text of nothing but padding, which is
what a missing text looks like. torch.onnx writes a softmax without that rule: a boolean mask gives the mean of the
values there, one of -inf NaN. So the rule is written into the traced program, on the output of the attention, where it
costs one operator of that size and hinders no engine from fusing the attention. A mask that is known to leave
something in each row loses it again (`mmdeploy.export.simplify`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import Node

_MASK = "attn_mask"
_MASK_POSITION = 3


def zero_masked_rows(program: Any) -> None:
    """Write the rule into a ``torch.export.ExportedProgram``, in place."""
    import torch

    graph = program.graph_module.graph
    attention = torch.ops.aten.scaled_dot_product_attention.default
    known: dict[Any, tuple[Any, Any]] = {}
    for node in list(graph.nodes):
        mask = _mask_of(node) if node.op == "call_function" and node.target is attention else None
        if mask is None:
            continue
        if mask not in known:
            known[mask] = _finite_and_open(graph, mask, before=node)
        finite, is_open = known[mask]
        node.replace_input_with(mask, finite)
        with graph.inserting_after(node):
            zeroed = _call(graph, torch.ops.aten.where.ScalarOther, (is_open, node, 0.0))
        node.replace_all_uses_with(zeroed, delete_user_cb=lambda user, made=zeroed: user is not made)
        for output in program.graph_signature.output_specs:
            if output.arg.name == node.name:
                output.arg.name = zeroed.name
    program.graph_module.recompile()


def _mask_of(node: Node) -> Any | None:
    return node.args[_MASK_POSITION] if len(node.args) > _MASK_POSITION else node.kwargs.get(_MASK)


def _finite_and_open(graph: Any, mask: Node, *, before: Node) -> tuple[Any, Any]:
    """Return the mask without -inf, and whether a row leaves anything, [..., rows, 1]."""
    import torch

    aten, value = torch.ops.aten, mask.meta["val"]
    with graph.inserting_before(before):
        if value.dtype is torch.bool:
            return mask, _call(graph, aten.any.dim, (mask, -1, True))
        seen = _call(graph, aten.gt.Scalar, (mask, -math.inf))
        finite = _call(graph, aten.clamp_min.default, (mask, torch.finfo(value.dtype).min))
        return finite, _call(graph, aten.any.dim, (seen, -1, True))


def _call(graph: Any, operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Add a call, with what it gives in its meta as torch.export has it."""
    import torch

    node = graph.call_function(operator, arguments)
    values = [one.meta["val"] if isinstance(one, torch.fx.Node) else one for one in arguments]
    node.meta["val"] = operator(*values)
    return node

"""An OpenVINO model in the forms that its CPU plugin is fast on, with the same numbers.

``MatMul(q, Transpose(k))`` in attention becomes a MatMul that reads ``k`` transposed. The plugin computes scores,
softmax and values in one kernel either way, but leaves a Transpose in front of it that copies the keys one number after
the other.
"""

from __future__ import annotations

from typing import Any


def read_keys_transposed(model: Any) -> int:
    """Take the transpositions of a second factor's last two axes into their MatMul, in place.

    Args:
        model: The ``openvino.Model``.

    Returns:
        How many there were.
    """
    from openvino import opset13

    taken = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or product.get_attributes()["transpose_b"]:
            continue
        keys = _untransposed(product.input_value(1))
        if keys is None:
            continue
        turned = product.get_attributes()["transpose_a"]
        new = opset13.matmul(product.input_value(0), keys, turned, True)
        new.set_friendly_name(product.get_friendly_name())
        new.output(0).get_tensor().set_names(product.output(0).get_names())
        for reader in product.output(0).get_target_inputs():
            reader.replace_source_output(new.output(0))
        taken += 1
    return taken


def _untransposed(keys: Any) -> Any | None:
    """Return a tensor whose last two axes are swapped to give this one, times the same scalar; None where none is."""
    from openvino import opset13

    node = keys.get_node()
    scaled = node.get_type_name() == "Multiply"
    swap = node.input_value(0).get_node() if scaled else node
    if swap.get_type_name() != "Transpose" or swap.input_value(1).get_node().get_type_name() != "Constant":
        return None
    order = [int(axis) for axis in swap.input_value(1).get_node().get_data().reshape(-1)]
    rank = len(order)
    if rank < 3 or order != [*range(rank - 2), rank - 1, rank - 2]:
        return None
    if not scaled:
        return swap.input_value(0)
    factor = node.input_value(1).get_node()
    if factor.get_type_name() != "Constant" or factor.get_data().size != 1:
        return None
    product = opset13.multiply(swap.input_value(0), node.input_value(1))
    product.set_friendly_name(node.get_friendly_name())
    return product.output(0)

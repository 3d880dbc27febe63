"""A scalar of its own for each choice of an OpenVINO model: what the CPU plugin compiles attention with a mask by.

Of a graph in which equal constants are one, the zero of a mask (``Where(mask, 0, -inf)``) and that of a row that sees
nothing (``Where(seen, found, 0)``) are one constant. The plugin fuses both into one kernel, with the loops of either
around it, and gives up: "All consumers of a Scalar expression are expected to have the same loop IDs" (2026.4).
"""

from __future__ import annotations

from typing import Any


def own_scalars(model: Any) -> None:
    """Give each ``Select`` that shares a constant of one element its own, in an ``openvino.Model``, in place."""
    from openvino import opset13

    for choice in model.get_ops():
        if choice.get_type_name() != "Select":
            continue
        for port in (1, 2):
            given = choice.input_value(port)
            constant = given.get_node()
            shared = constant.get_type_name() == "Constant" and len(given.get_target_inputs()) > 1
            if shared and constant.data.size == 1:
                own = opset13.constant(constant.data.copy(), dtype=given.get_element_type())
                choice.input(port).replace_source_output(own.output(0))

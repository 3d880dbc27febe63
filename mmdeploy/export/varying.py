"""Axes of a component that vary: how they are traced, and what torch.export found of them.

Each is traced as ``Dim.DYNAMIC`` within its bounds. A named ``Dim`` would refuse what is no more than a guess of the
tracer, such as that a strided convolution gives more than one frame; with ``DYNAMIC`` the tracer says what it found,
and where it found too little, the graph is tried at lengths on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ExportError
from mmdeploy.core.sizes import UNBOUNDED, Size
from mmdeploy.model.traced import Axes

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array

#: An axis in a message of torch.export: the number of the input, and that of the axis.
_NAMED_BY_TORCH = re.compile(r"L\['values'\]\[(\d+)\]\.size\(\)\[(\d+)\]")


def found_sizes(program: Any, axes: Axes, component: str) -> dict[str, dict[int, Size]]:
    """Return the sizes of the axes that vary, by input and axis: axes that are one in the module have one.

    Raises:
        ExportError: If two sizes of the recipe are one in the module.
    """
    known: dict[str, tuple[Size, str]] = {}
    symbols = dict(_symbols(program, axes))
    for name, by_axis in axes.items():
        for axis, size in by_axis.items():
            symbol = symbols.get((name, axis))
            if size is None or symbol is None:
                continue
            other, where = known.setdefault(symbol, (size, name))
            if other.name != size.name:
                raise ExportError(
                    f"{component}: the sizes {other.name!r} (of input {where!r}) and {size.name!r} (of {name!r}) are "
                    "always equal in the module",
                    hint="give both axes the name of one size",
                )
    found: dict[str, dict[int, Size]] = {}
    shared = [symbol for symbol in symbols.values() if list(symbols.values()).count(symbol) > 1]
    for (name, axis), symbol in symbols.items():
        size = axes[name][axis]
        if size is None and symbol in known:
            size = known[symbol][0]
        elif size is None and symbol in shared:  # equal, within bounds that nobody said
            size = known.setdefault(symbol, (Size(f"{name}_{axis}", 1, UNBOUNDED), name))[0]
        if size is not None:
            found.setdefault(name, {})[axis] = size
    return found


def name_symbols(proto: Any, program: Any, axes: Axes, sizes: Mapping[str, Mapping[int, Size]]) -> None:
    """Call axes in a graph by the names of their sizes, in formulas of other axes too."""
    names = {
        symbol: called if (called := _called(sizes, name, axis)).isidentifier() else f"{name}_{axis}"
        for (name, axis), symbol in _symbols(program, axes)
    }
    if not names:
        return
    word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = word.sub(lambda match: names[match.group()], dim.dim_param)


def _called(sizes: Mapping[str, Mapping[int, Size]], name: str, axis: int) -> str:
    size = sizes.get(name, {}).get(axis)
    return "" if size is None else size.name


def fixed_axis(text: str, feed: Mapping[str, Array]) -> tuple[str, int] | None:
    """Return the input and the axis, other than the batch, that torch.export says have become fixed."""
    names = list(feed)
    for line in text.splitlines():
        found = _NAMED_BY_TORCH.search(line)
        if found and "specialized" in line and int(found.group(2)):
            return names[int(found.group(1))], int(found.group(2))
    return None


def _symbols(program: Any, axes: Axes) -> Iterator[tuple[tuple[str, int], str]]:
    """Give the symbol of each axis that varies, where it is one alone."""
    taken = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in taken}
    for name, taken_name in zip(axes, taken, strict=True):
        for axis in axes[name]:
            symbol = str(shapes[taken_name][axis])
            if symbol.isidentifier():
                yield (name, axis), symbol

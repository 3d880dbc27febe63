"""Layer groups: the nodes that can be quantized, put together by the module that made them.

Nodes are named ``<module path>/<operator>`` (``blocks.0.attention.query/MatMul``). A group is what lies below one
path of a chosen depth: at depth 3, ``blocks.0.attention`` with its four products. A group can be named in a recipe:
its globs match its own nodes and no others that can be quantized.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field

from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.globs import first_match, nearest_names, unmatched

#: Groups that are still few enough to judge each of them.
_MOST_GROUPS = 20


class Grouping(MethodOptions):
    """How nodes are put together into layer groups.

    Attributes:
        group_depth: Parts of the module path that name a group; null takes the deepest that gives at most 20 groups.
        groups: Globs on node names, each a group of its own (``blocks.0.*``); nodes that none matches are grouped by
            depth.
    """

    group_depth: Annotated[int, Field(ge=1)] | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerGroup:
    """Nodes that are quantized, or left in float, together.

    Attributes:
        name: Module path, node, or the glob that made it.
        nodes: Names of its nodes, in the graph's order.
        globs: What leaves exactly these nodes out, as the recipe's ``exclude``.
        weights: Numbers in the weights of its nodes.
    """

    name: str
    nodes: tuple[str, ...]
    globs: tuple[str, ...]
    weights: int


def find(model: Any, nodes: Sequence[str], options: Grouping) -> tuple[LayerGroup, ...]:
    """Group nodes.

    Args:
        model: The float graph.
        nodes: Names of those that can be quantized, in the graph's order.
        options: Of the pass.

    Raises:
        QuantizeError: When a glob of the options matches none of the nodes.
    """
    pattern = unmatched(options.groups, nodes)
    if pattern is not None:
        raise QuantizeError(
            f"groups: {pattern!r} matches no node that can be quantized",
            hint=nearest_names(pattern, nodes, noun="nodes"),
        )
    free = [node for node in nodes if first_match(node, options.groups) is None]
    depth = options.group_depth or _depth(free)
    members: dict[str, list[str]] = {}
    for node in nodes:
        members.setdefault(first_match(node, options.groups) or _path(node, depth), []).append(node)
    sizes = _weight_sizes(model)
    return tuple(
        LayerGroup(name, tuple(inside), _globs(name, inside, nodes), sum(sizes.get(node, 0) for node in inside))
        for name, inside in members.items()
    )


def _depth(nodes: Sequence[str]) -> int:
    """Return the deepest depth that gives few enough groups."""
    deepest = max((len(_parts(node)) for node in nodes), default=1)
    fitting = (depth for depth in range(deepest, 1, -1) if len({_path(node, depth) for node in nodes}) <= _MOST_GROUPS)
    return next(fitting, 1)


def _parts(node: str) -> list[str]:
    module, slash, _ = node.rpartition("/")
    return module.split(".") if slash else [node]


def _path(node: str, depth: int) -> str:
    """Return the first parts of a node's module path; a node outside any module is a group of its own."""
    return ".".join(_parts(node)[:depth])


def _globs(name: str, inside: Sequence[str], nodes: Iterable[str]) -> tuple[str, ...]:
    """Return globs that match the nodes inside and none of the others."""
    outside = [node for node in nodes if node not in set(inside)]
    escaped = glob.escape(name)
    for wanted in ((name,), (f"{escaped}.*", f"{escaped}/*")):
        globs = tuple(pattern for pattern in wanted if any(fnmatchcase(node, pattern) for node in inside))
        covered = all(first_match(node, globs) for node in inside)
        if covered and not any(first_match(node, globs) for node in outside):
            return globs
    return tuple(glob.escape(node) for node in inside)


def _weight_sizes(model: Any) -> Mapping[str, int]:
    """Return the number of weights that each node multiplies by, by the node's name."""
    import math

    sizes = {weight.name: math.prod(weight.dims) for weight in model.graph.initializer}
    return {node.name: max((sizes.get(name, 0) for name in node.input[:2]), default=0) for node in model.graph.node}

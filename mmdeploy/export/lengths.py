"""An exported graph against PyTorch at the lengths of sizes that vary, and what sizes its outputs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.core.errors import ExportError, ModelError
from mmdeploy.core.sizes import Lengths, Size, padding_advised, size_of
from mmdeploy.export import parity

if TYPE_CHECKING:
    from mmdeploy.core.contracts import StepContext

#: Rows of a batch at each length: more than one, since the graph was traced with more.
_ROWS = 2


def compare(
    pair: parity.Pair,
    known: Mapping[str, Mapping[int, Size]],
    context: StepContext,
    *,
    inputs: Sequence[str],
    every: bool,
    atol: float,
    rtol: float,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[int, Size]]]:
    """Compare a graph with its module at the smallest length, the largest, typical ones and some between.

    Args:
        pair: What to compare.
        known: Sizes of the inputs' axes, by input and axis.
        context: Of the step; gives what is asked.
        inputs: Names of the inputs.
        every: Whether all sizes that vary have bounds, so that no output is longer than those seen.
        atol: Absolute difference allowed.
        rtol: Difference allowed relative to PyTorch's answer.

    Returns:
        The figures by lengths, and the sizes of the outputs' axes that vary, by output and axis.

    Raises:
        ExportError: If the graph answers something else at a length, or the module itself fails at it.
    """
    figures: dict[str, dict[str, float]] = {}
    shapes: list[tuple[Lengths, Mapping[str, tuple[int, ...]]]] = []
    rows = min(context.max_batch_size or _ROWS, _ROWS)
    for at, feed in context.at_lengths(rows):
        told = ", ".join(f"{name} {length}" for name, length in at.items())
        try:
            compared = parity.compare(pair, {name: feed[name] for name in inputs}, atol=atol, rtol=rtol)
        except (ExportError, ModelError) as problem:
            raise ExportError(
                f"{problem.message} (at {told})",
                hint="the recipe's sizes allow these lengths, or its samples have them: correct the bounds to what the "
                "module can do, or make it right there (no size from a Python number, no branch on a length)"
                + "".join(
                    f"; where it takes one length only, {padding_advised(size)}"
                    for size in {one.name: one for axes in known.values() for one in axes.values()}.values()
                    if size.bounded and not size.made
                ),
            ) from problem
        figures[told] = compared.figures
        shapes.append((at, compared.shapes))
    return figures, _sizes(shapes, known, pair) if every else {}


def _sizes(
    shapes: Sequence[tuple[Lengths, Mapping[str, tuple[int, ...]]]],
    inputs: Mapping[str, Mapping[int, Size]],
    pair: parity.Pair,
) -> dict[str, dict[int, Size]]:
    if not shapes:
        return {}
    known = {size.name: size for axes in inputs.values() for size in axes.values()}
    origins = {origin for size in known.values() for origin in size.origins}
    found: dict[str, dict[int, Size]] = {}
    for output in pair.outputs:
        for axis in range(1, len(shapes[0][1][output])):
            seen = [(at, shape[output][axis]) for at, shape in shapes]
            if len({length for _, length in seen}) > 1:
                size = size_of(f"{pair.component}_{output}_{axis - 1}", seen, known, every=True, origins=origins)
                if size is not None:
                    found.setdefault(output, {})[axis] = size
    return found

"""How much of each component is in INT8, from its quantize step, in the same words for every rendering."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mmdeploy.choice.record import EngineChoice
from mmdeploy.core.facts import find
from mmdeploy.quantize.coverage import COVERAGE, Coverage
from mmdeploy.record.build_report import BuildReport

HEAD = ("Component", "Layers in INT8", "Weights in INT8", "Left in floating point")
_SHOWN = 4


@dataclass(frozen=True)
class Row:
    """What is said of a component; the cells are those of `HEAD`.

    Attributes:
        cells: One text a column.
    """

    cells: tuple[str, str, str, str]

    @property
    def sentence(self) -> str:
        """The same in a line."""
        name, layers, weights, left = self.cells
        if not weights:
            return f"{name}: {left}"
        return f"{name}: INT8 covers {layers} layers, {weights} of the weights" + (f"; {left}" if left else "")


def rows(report: BuildReport) -> list[Row]:
    """Return a row a component; none where nothing was to be quantized."""
    found: dict[str, Coverage] = {}
    chosen: dict[str, EngineChoice] = {}
    components = []
    for step in report.steps:
        if step.kind in ("engine", "select") and step.component not in components:
            components.append(step.component)
        if step.kind == "quantize" and (coverage := find(Coverage, step.metadata, under=COVERAGE)) is not None:
            found.setdefault(step.component, coverage)
        if step.kind == "select" and (choice := find(EngineChoice, step.metadata)) is not None:
            chosen[step.component] = choice
    if not found:
        return []
    return [Row(cells(name, found.get(name), chosen.get(name))) for name in components]


def cells(name: str, coverage: Coverage | None, choice: EngineChoice | None = None) -> tuple[str, str, str, str]:
    """Return what is said of one component, or step; the cells are those of `HEAD`."""
    if coverage is None:
        return name, "none", "", "not quantized"
    if choice is not None and choice.winner.graph == "float":
        return name, "none", "", f"nothing in INT8 ships: {choice.winner.label} was chosen"
    return name, f"{coverage.int8_layers} of {coverage.layers}", share_text(coverage), _left(coverage)


def share_text(coverage: Coverage) -> str:
    """Return the share of the weights in INT8, such as ``97 %``; never ``100 %`` where a weight is not."""
    share = 100 * coverage.int8_weights / coverage.weights if coverage.weights else 0.0
    shown = f"{share:.0f}" if 1 <= share < 99 else f"{share:.1f}" if share < 99.95 else f"{share:.2f}"
    return "> 99.9 %" if share < 100 and shown.startswith("100") else f"{shown.removesuffix('.00')} %"


def _left(coverage: Coverage) -> str:
    kinds = Counter(coverage.float_layers.values())
    named = ", ".join(list(coverage.float_layers)[:_SHOWN])
    more = coverage.layers - coverage.int8_layers - min(_SHOWN, len(coverage.float_layers))
    if not kinds:
        return ""
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"in floating point: {told} ({named}{f' and {more} more' if more > 0 else ''})"

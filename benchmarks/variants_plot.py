"""The accuracy-latency-size front of `variants.py` as a plot: a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from variants_rows import Row

_INK, _MUTED, _FRONT, _POINT = "#1f2328", "#6e7781", "#b5560b", "#0b62b5"
_MIB = 2**20


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy over the components' latency and over size, all variants as points, the fronts as lines."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.hashsalt": "variants", "font.size": 10, "text.color": _INK, "axes.edgecolor": _MUTED}
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    ratios = [row.components_ratio or 1.0 for row in rows]
    sizes = [row.bytes / _MIB for row in rows]
    _panel(panels[0], rows, ratios, "latency of the components, FP32 in ONNX Runtime = 1")
    _panel(panels[1], rows, sizes, "engines on disk, MiB")
    panels[0].set_ylabel("top-1 on the test split, served, %")
    figure.suptitle("spoken_digits: up and to the left is better; orange: the front; bars: 95 % interval", fontsize=11)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(axes: Any, rows: Sequence[Row], costs: Sequence[float], label: str) -> None:
    accuracies = [100 * row.accuracy[0] for row in rows]
    front = sorted(_front(costs, accuracies))
    axes.step(
        [costs[index] for index in _by_cost(front, costs)], [accuracies[index] for index in _by_cost(front, costs)],
        where="post", color=_FRONT, linewidth=1.2, zorder=1,
    )  # fmt: skip
    for index, row in enumerate(rows):
        low, high = 100 * row.accuracy[1], 100 * row.accuracy[2]
        color = _FRONT if index in front else _POINT
        axes.plot([costs[index]] * 2, [low, high], color=color, alpha=0.35, linewidth=1.5, zorder=2)
        axes.scatter(costs[index], accuracies[index], s=36, color=color, zorder=3)
    for index, (place, raised) in enumerate(_labels(costs, accuracies)):
        axes.annotate(
            rows[index].label, (place, accuracies[index]), xytext=(9, raised), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    axes.set_xlabel(label)
    axes.set_xlim(0, 1.12 * max(costs))
    axes.grid(color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _labels(costs: Sequence[float], accuracies: Sequence[float]) -> list[tuple[float, float]]:
    """Return cost and rise in points of each label: those close together stand in a column, the better the higher."""
    width, height = max(costs), max(accuracies) - min(accuracies) or 1.0
    offsets = []
    for index in range(len(costs)):
        near = [
            other
            for other in range(len(costs))
            if other != index
            and abs(costs[other] - costs[index]) < 0.1 * width
            and abs(accuracies[other] - accuracies[index]) < 0.15 * height
        ]
        below = sum((accuracies[other], other) < (accuracies[index], index) for other in near)
        place = max(costs[other] for other in (index, *near))
        offsets.append((place, 7.0 * (2 * below - len(near)) if near else -9.0))
    return offsets


def _front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Return the points that no other beats in both."""
    found = []
    for index in range(len(costs)):
        beaten = any(
            costs[other] <= costs[index]
            and accuracies[other] >= accuracies[index]
            and (costs[other], -accuracies[other]) != (costs[index], -accuracies[index])
            for other in range(len(costs))
        )
        if not beaten:
            found.append(index)
    return found


def _by_cost(front: Sequence[int], costs: Sequence[float]) -> list[int]:
    return sorted(front, key=lambda index: costs[index])

"""The front as a drawing: the first objective against each other one, with intervals."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from mmdeploy.studies.objectives import OBJECTIVES

if TYPE_CHECKING:
    from mmdeploy.studies.found import Found
    from mmdeploy.studies.trial import Trial

_INK, _MUTED, _ACCENT, _BAD = "#222222", "#9a9a9a", "#1f6fb2", "#b3402b"
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "mmdeploy", "font.size": 9.0, "text.parse_math": False}
_PANEL_INCHES = (4.4, 3.4)


def front_svg(found: Found) -> str:
    """Draw trials that have all figures; those of the front are filled and carry their numbers."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    first, *others = found.objectives
    with mpl.rc_context(_SETTINGS):
        width, height = _PANEL_INCHES
        drawing = Drawing(figsize=(width * len(others), height), layout="constrained")
        for axes, other in zip(drawing.subplots(1, len(others), squeeze=False)[0], others, strict=True):
            _panel(axes, found, first, other)
        text = io.StringIO()
        FigureCanvasSVG(drawing).print_svg(text, metadata={"Date": None, "Creator": "mmdeploy"})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _panel(axes: Any, found: Found, across: str, up: str) -> None:
    best = found.chosen
    on_front = {one.number for one in found.front}
    for trial in found.counted:
        if across in trial.figures and up in trial.figures:
            _dot(axes, trial, across, up, _colour(trial, on_front), filled=trial.number in on_front)
            if trial.number in on_front:
                where = (trial.figures[across].value, trial.figures[up].value)
                weight = "bold" if best is not None and trial.number == best.number else "normal"
                mark = f"{trial.number} chosen" if weight == "bold" else str(trial.number)
                axes.annotate(
                    mark, where, xytext=(5, 4), textcoords="offset points", color=_INK, weight=weight
                )  # fmt: skip
    axes.set_xlabel(OBJECTIVES[across].title)
    axes.set_ylabel(OBJECTIVES[up].title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _colour(trial: Trial, on_front: set[int]) -> str:
    if trial.status != "passed":
        return _BAD
    return _ACCENT if trial.number in on_front else _MUTED


def _dot(axes: Any, trial: Trial, across: str, up: str, colour: str, *, filled: bool) -> None:
    wide, high = trial.figures[across], trial.figures[up]
    axes.errorbar(
        wide.value,
        high.value,
        xerr=[[max(wide.value - wide.low, 0.0)], [max(wide.high - wide.value, 0.0)]],
        yerr=[[max(high.value - high.low, 0.0)], [max(high.high - high.value, 0.0)]],
        fmt="o" if trial.status == "passed" else "x",
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=5,
        elinewidth=0.7,
        alpha=1.0 if filled else 0.7,
    )

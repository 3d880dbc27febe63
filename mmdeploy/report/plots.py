"""Plots as inline SVG: small panels that fit a phone, with text as text and colours from the page.

Matplotlib draws with a few marker colours, which are then replaced by CSS variables of the page, so that one
drawing serves light, dark and print. Namespaces, metadata and styles that would leak into the page go.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.record.build_report import LatencyRecord, SizeRecord, StageSeries
from mmdeploy.report import trainings
from mmdeploy.report.sensitivities import drop_text, sqnr_text
from mmdeploy.report.units import bytes_text, figure_text, ratio_text, without_controls
from mmdeploy.report.wording import END_TO_END
from mmdeploy.scoring.findings import Scored, Sensitivity
from mmdeploy.training.record import TrainingRecord

_INK, _MUTED, _GRID, _REFERENCE, _CANDIDATE, _PAPER, _TRAINING, _VALIDATION = (
    "#010101", "#010102", "#010103", "#010104", "#010105", "#010106", "#010107", "#010108",
)  # fmt: skip
_VARIABLES = {
    _INK: "--ink", _MUTED: "--muted", _GRID: "--grid",
    _REFERENCE: "--reference", _CANDIDATE: "--candidate", _PAPER: "--paper",
    _TRAINING: "--training", _VALIDATION: "--validation",
}  # fmt: skip
_WIDTH_INCHES = 4.6
_ROW_INCHES = 0.235
_POINTS_PER_LETTER = 5.6
_LONGEST_LABEL = 24
_LINES_ROWS = 7.0  # height of a plot by epoch
_LARGEST = 1e12
_EXACT_DB = 60.0  # a thousandth of the signal: beyond it, differences would only squeeze the scale
_SETTINGS = {
    "svg.fonttype": "none", "font.size": 9.0, "font.family": "sans-serif", "text.color": _INK,
    "axes.edgecolor": _GRID, "axes.labelcolor": _MUTED, "xtick.color": _GRID, "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK, "ytick.color": _GRID, "axes.grid": True, "axes.grid.axis": "x",
    "grid.color": _GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.formatter.useoffset": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """A line of a dot plot: a heading (no figure), or a figure with its interval."""

    label: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    text: str = ""
    colour: str = _CANDIDATE
    heading: bool = False


def stage_panel(title: str, series: Sequence[StageSeries]) -> str:
    """Draw where one metric went, stage by stage, end to end or for every component that has it."""
    rows = []
    for one in series:
        rows.append(_Row(one.component or END_TO_END, heading=True))
        for stage in one.stages:
            text = figure_text(stage.value, stage.interval, unit=one.unit)
            colour = _REFERENCE if "FP32" in stage.label else _CANDIDATE
            rows.append(_Row(stage.label, stage.value, stage.interval, text, colour))
    metric, unit = series[0].metric, series[0].unit
    axis = f"{metric} ({unit})" if unit else metric
    most = _EXACT_DB if unit == "dB" else _LARGEST
    return _dots(rows, axis, title, from_zero=False, most=most)


def drop_panel(title: str, measured: Sensitivity) -> str:
    """Draw what each layer group of a component alone costs of the task's metric in INT8."""
    rows = [_Row(name, one.drop, one.drop_interval, drop_text(one), colour) for name, one, colour in _groups(measured)]
    return _dots(rows, f"drop of {measured.metric} in INT8", title, from_zero=False)


def noise_panel(title: str, measured: Sensitivity) -> str:
    """Draw the SQNR at the fused output with each layer group of a component alone in INT8; far left is worst."""
    rows = [
        _Row(name, math.inf if one.sqnr_db is None else one.sqnr_db, None, sqnr_text(one), colour)
        for name, one, colour in _groups(measured)
    ]
    return _dots(rows, "SQNR at the fused output (dB)", title, from_zero=True, most=_EXACT_DB)


def _groups(measured: Sensitivity) -> Iterator[tuple[str, Scored, str]]:
    yield from ((group.group, group, _CANDIDATE) for group in measured.sensitivity)
    if measured.whole is not None:
        yield "all together", measured.whole, _INK


def loss_panel(title: str, course: TrainingRecord) -> str:
    """Draw the loss of training and of validation by epoch; a broken line where it was not finite."""
    lines = zip(trainings.losses(course), (_TRAINING, _VALIDATION), strict=True)
    return _lines([(values, colour) for (_, values), colour in lines], "loss", title, best=course.best.epoch)


def metric_panel(title: str, course: TrainingRecord) -> str:
    """Draw the metric of the validation split by epoch, and at which epoch it was best."""
    values = [one.metric for one in course.epochs]
    return _lines([(values, _VALIDATION)], course.metric, title, best=course.best.epoch)


def latency_panel(title: str, records: Sequence[LatencyRecord]) -> str:
    """Draw one latency statistic of reference and candidate, of one batch size and concurrency."""
    rows = []
    for record in records:
        rows.append(_Row(record.component or END_TO_END, heading=True))
        text = figure_text(record.reference_ms, record.reference_interval_ms, unit="ms")
        rows.append(
            _Row(
                "FP32",
                record.reference_ms,
                record.reference_interval_ms,
                text,
                _REFERENCE,
            )
        )
        text = figure_text(record.candidate_ms, record.candidate_interval_ms, unit="ms")
        text += f" ({ratio_text(record.candidate_ms, record.reference_ms)})"
        rows.append(_Row("candidate", record.candidate_ms, record.candidate_interval_ms, text))
    return _dots(rows, "latency (ms)", title, from_zero=True)


def size_panel(title: str, sizes: Sequence[SizeRecord]) -> str:
    """Draw bytes on disk of reference and candidate."""
    largest = max((size.reference_bytes or 0, size.candidate_bytes or 0) for size in sizes)
    scale, unit = (2**20, "MiB") if max(largest) >= 2**20 else (2**10, "KiB")

    def draw(axes: Any) -> None:
        labels = []
        for number, size in enumerate(sizes):
            at = 3 * number
            ratio = ratio_text(size.candidate_bytes, size.reference_bytes)
            bars = (
                (size.reference_bytes, f"{bytes_text(size.reference_bytes)} FP32", _REFERENCE),
                (size.candidate_bytes, f"{bytes_text(size.candidate_bytes)} ({ratio})", _CANDIDATE),
            )
            for offset, (count, text, colour) in enumerate(bars):
                width = (count or 0) / scale
                axes.barh(at + offset, width, height=0.8, color=colour)
                axes.annotate(text, (width, at + offset), (4, 0), textcoords="offset points", va="center")
            labels.append((at + 0.5, _short(size.component)))
        axes.set_yticks([at for at, _ in labels], [name for _, name in labels])
        axes.grid(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.4 * max(largest) / scale or 1)
        axes.set_ylim(3 * len(sizes) - 1.2, -0.8)
        axes.set_xlabel(f"bytes on disk ({unit})")

    return _svg(draw, 2.3 * len(sizes), title)


def _dots(rows: Sequence[_Row], axis: str, title: str, *, from_zero: bool, most: float = _LARGEST) -> str:
    """Draw a row a line; what is above ``most`` is an arrow at the edge, its figure beside it."""
    finite = [
        number
        for row in rows
        for number in (row.value, *(row.interval or ()))
        if number is not None and -_LARGEST <= number <= most
    ]

    def draw(axes: Any) -> None:
        # Where every figure is beyond, so are the arrows: at the end of an axis that says what they are beyond.
        low, high = (0.0, most) if not finite and most < _LARGEST else _limits(finite, from_zero)
        axes.set_xlim(low, high)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        labels = [_short(row.label) for row in rows]
        axes.set_yticks(range(len(rows)), labels, ha="left")
        axes.tick_params(axis="y", length=0, pad=_POINTS_PER_LETTER * max(map(len, labels)))
        for at, row in enumerate(rows):
            axes.get_yticklabels()[at].set_fontweight("bold" if row.heading else "normal")
            _dot(axes, at, row, (low, high))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(axis)

    return _svg(draw, len(rows), title)


def _dot(axes: Any, at: int, row: _Row, limits: tuple[float, float]) -> None:
    if row.heading:
        return
    axes.annotate(row.text, (1.04, at), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
    if row.value is None or math.isnan(row.value):
        return
    low, high = limits
    if not low <= row.value <= high:
        edge, marker = (high, ">") if row.value > high else (low, "<")
        axes.plot([edge], [at], marker=marker, color=row.colour, markersize=5, clip_on=False)
        return
    if row.interval is not None and not any(math.isnan(end) for end in row.interval):
        ends = [min(max(end, low), high) for end in row.interval]
        axes.plot(ends, [at, at], color=row.colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([row.value], [at], marker="o", color=row.colour, markersize=5)


def _lines(lines: Sequence[tuple[Sequence[float | None], str]], axis: str, title: str, *, best: int) -> str:
    """Draw figures by epoch, from 0; the best epoch is a dotted line."""
    epochs = range(len(lines[0][0]))

    def draw(axes: Any) -> None:
        axes.axvline(best, color=_MUTED, linewidth=1.0, linestyle=":")
        side = "right" if best > epochs[-1] / 2 else "left"
        words = "kept: before training" if best == 0 else f"kept: epoch {best}"
        offset = (-4 if side == "right" else 4, 1)
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(words, (best, 1.0), offset, ha=side, color=_MUTED, annotation_clip=False, **where)
        for values, colour in lines:
            shown = [_drawable(value) for value in values]
            axes.plot(epochs, shown, color=colour, linewidth=1.6, marker="o", markersize=3.5, clip_on=False)
        axes.set_xlim(0, max(epochs[-1], 1))
        axes.grid(True, axis="y")
        axes.grid(False, axis="x")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.locator_params(axis="y", nbins=4)
        axes.set_xlabel("epoch")
        axes.set_ylabel(axis)

    return _svg(draw, _LINES_ROWS, title)


def _drawable(value: float | None) -> float:
    return value if value is not None and abs(value) <= _LARGEST else math.nan


def _short(label: str) -> str:
    """Shorten a name on one line so that it leaves room for the plot; the table has it in full."""
    words = " ".join(label.split())
    return words if len(words) <= _LONGEST_LABEL else words[: _LONGEST_LABEL - 1] + "…"


def _limits(finite: Sequence[float], from_zero: bool) -> tuple[float, float]:
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if from_zero and low >= 0:
        return 0.0, high * 1.08 or 1.0
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _svg(draw: Any, rows: float, title: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # missing glyphs: the page has its own fonts
        figure = Figure(figsize=(_WIDTH_INCHES, _ROW_INCHES * rows + 0.55), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _inline(without_controls(written.getvalue()), title)


def _inline(document: str, title: str) -> str:
    """Turn a standalone SVG document into an element for an HTML page."""
    root = ET.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    prefix = re.sub(r"\W+", "-", title) + "-"
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _own(name, value, prefix) for name, value in attributes.items()})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": title})
    text = ET.tostring(root, encoding="unicode")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _own(name: str, value: str, prefix: str) -> str:
    """Make ids unique on the page, and the references to them with them."""
    if name == "id":
        return prefix + value
    if name == "href":
        return value.replace("#", f"#{prefix}", 1)
    return value.replace("url(#", f"url(#{prefix}")

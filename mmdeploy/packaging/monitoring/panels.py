"""Panels of a Grafana dashboard as objects: what is drawn, in which unit, with which limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Above it.
        description: What it shows and what to look for.
        unit: Of Grafana: ``ms``, ``percentunit``, ``reqps``, ``bytes``, ``short``, ``none``.
        queries: PromQL by its legend.
        limits: Where it turns yellow or red, by that color.
        kind: How it is drawn.
        width: Of 24 columns.
        most: The largest value that there can be; None where there is none.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    limits: tuple[tuple[Literal["yellow", "red"], float], ...] = ()
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries"
    width: int = 8
    most: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


def laid_out(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Give the panels of rows as Grafana has them, from left to right and from top to bottom."""
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        }  # fmt: skip
        top, left = top + 1, 0
        height = 4 if all(panel.kind == "stat" for panel in row.panels) else 8
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left = top + height, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": height})
            left += panel.width
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    drawn = panel.kind == "timeseries"
    steps = [{"color": "green", "value": None}, *({"color": color, "value": at} for color, at in panel.limits)]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if drawn else "thresholds"},
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if drawn:
        defaults["custom"] = {"thresholdsStyle": {"mode": "line" if panel.limits else "off"}, "fillOpacity": 10}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "instant": not drawn,
                "range": drawn,
            }
            for index, (legend, expr) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _shown(panel),
    }


def _shown(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    beside = {"colorMode": "value", "graphMode": "area"} if panel.kind == "stat" else {"displayMode": "basic"}
    return {"reduceOptions": reduced, "orientation": "auto", **beside}

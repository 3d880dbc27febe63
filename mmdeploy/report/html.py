"""A report as one HTML file: no script, nothing loaded from anywhere, light, dark and printable."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from mmdeploy.record.build_report import BuildReport, CheckRecord, LatencyRecord, StageSeries
from mmdeploy.report import choices, costs, coverage, drawn, plots, power, sensitivities, subsets, trainings
from mmdeploy.report.templates import environment
from mmdeploy.report.units import (
    basis_text,
    bytes_text,
    cell_text,
    check_text,
    figure_text,
    interval_text,
    limit_text,
    ratio_text,
    remark_text,
    seconds_text,
    without_controls,
)
from mmdeploy.report.wording import (
    END_TO_END,
    PLAIN_RECIPE,
    headline,
    log_link,
    next_steps,
    outcome,
    repository,
    sizes_and_total,
    substitute_warning,
    warned_text,
    worst_first,
)
from mmdeploy.scoring.kept import KEPT

if TYPE_CHECKING:
    from jinja2 import Environment

_LOG = logging.getLogger(__name__)
_LONGEST_LIST = 8
#: Our own template's tables: the head has ``scope="col"``, and cells hold no other table.
_TABLE = re.compile(r"<table(?! class=\"gates\").*?</table>", re.DOTALL)
_HEAD = re.compile(r'<th scope="col"[^>]*>(.*?)</th>')
_ROW = re.compile(r"<tr[^>]*><th scope=\"row\".*?</tr>|<tr[^>]*><td.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<(th|td)( [^>]*)?>")
_TAG = re.compile(r"<[^>]+>")
_MOST_FACTS = 60


def render(report: BuildReport, earlier: str = "") -> str:
    """Render the report as a self-contained page; a plot that cannot be drawn is replaced by the reason.

    Links lead to files of the run beside the page, so that they work wherever a copy of the run's folder is.

    Args:
        report: What is shown.
        earlier: An earlier page: what it has drawn of the same figures is taken over.
    """
    sizes, panel = sizes_and_total(report), functools.partial(_panel, earlier=earlier)
    return _labelled(
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            gates=worst_first(report),
            end_to_end=END_TO_END,
            headline=headline(report),
            outcome=outcome(report),
            warning=substitute_warning(report),
            published=repository(report),
            plain_recipe=PLAIN_RECIPE,
            advice=next_steps(report),
            power=power.sentences(report),
            sizes=sizes,
            choices=[
                (component, choices.rows(choice), choices.told(choice)) for component, choice in choices.choices(report)
            ],
            choice_head=choices.HEAD,
            **_measured(report, panel),
            coverage=[row.cells for row in coverage.rows(report)],
            coverage_head=coverage.HEAD,
            subsets=subsets.matrix(report),
            subsets_title=subsets.TITLE,
            costs=costs.rows(report),
            cost_head=costs.HEAD,
            cost_notes=costs.notes(report),
            trainings=_trainings(report, panel),
            training_head=trainings.HEAD,
            stage_panels=[panel(plots.stage_panel, *group) for group in _stage_groups(report)],
            size_panels=[panel(plots.size_panel, "Bytes on disk", sizes)] if sizes else [],
            latency_panels=[panel(plots.latency_panel, *group) for group in _latency_groups(report)],
        )
    )


def render_sensitivity(report: BuildReport) -> str:
    """Render what was measured of layer groups as a self-contained page."""
    template = _environment().get_template("sensitivity.html.j2")
    return _labelled(template.render(report=report, version=report.mmdeploy_version, **_measured(report, _panel)))


def _measured(report: BuildReport, panel: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return what the section on layer groups shows."""
    return {
        "sensitivities": [
            {
                "component": component,
                "rows": sensitivities.rows(measured),
                "panels": [
                    panel(plots.drop_panel, f"{component}: drop of {measured.metric}", measured),
                    panel(plots.noise_panel, f"{component}: SQNR", measured),
                ],
            }
            for component, measured in sensitivities.sensitivities(report)
        ],
        "searches": [
            {"step": step.id, "told": sensitivities.told(search), "rows": sensitivities.decisions(search)}
            for step, search in sensitivities.searches(report)
        ],
        "sensitivity_head": sensitivities.HEAD,
        "decision_head": sensitivities.DECISION_HEAD,
    }


def _trainings(report: BuildReport, panel: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the section on training shows."""
    return [
        {
            "step": step,
            "told": trainings.told(course),
            "improved": course.improved,
            "rows": trainings.rows(course),
            "panels": [
                panel(plots.loss_panel, f"{step}: loss", course),
                panel(plots.metric_panel, f"{step}: {course.metric} in validation", course),
            ],
        }
        for step, course in trainings.trainings(report)
    ]


@functools.cache
def _environment() -> Environment:
    made = environment("mmdeploy", "report", finalize=_finalize)
    made.filters.update(
        bytes=bytes_text,
        seconds=seconds_text,
        figure=figure_text,
        interval=interval_text,
        facts=lambda facts: list(_facts(facts)),
        check=_check_cells,
        warned=warned_text,
        cell=cell_text,
        link=lambda path, report: log_link(report, path),
    )
    made.globals["ratio"] = ratio_text
    return made


def _finalize(value: Any) -> Any:
    return without_controls(value) if type(value) is str else value


def _check_cells(check: CheckRecord) -> tuple[str, str, str, str, str]:
    return (*check_text(check), limit_text(check), basis_text(check), remark_text(check))


def _labelled(page: str) -> str:
    """Give each cell of a table the name of its column: on a phone a row is a list of its cells."""
    return _TABLE.sub(_with_labels, page)


def _with_labels(table: re.Match[str]) -> str:
    head = [_TAG.sub("", name) for name in _HEAD.findall(table[0])]

    def row(found: re.Match[str]) -> str:
        columns = iter(head)

        def cell(start: re.Match[str]) -> str:
            label = next(columns, "")
            return f'<td data-label="{label}"{start[2]}>' if start[1] == "td" and label else start[0]

        return _CELL.sub(cell, found[0])

    return _ROW.sub(row, table[0])


def _panel(draw: Callable[[str, Any], str], title: str, records: Any, *, earlier: str = "") -> dict[str, Any]:
    """Draw a panel, or say why it is missing: its figures are in the table, no plot may cost a report."""
    from markupsafe import Markup

    try:
        return {"title": title, "svg": Markup(drawn.drawn(draw, title, records, earlier)), "problem": ""}
    except Exception as problem:  # noqa: BLE001 - whatever Matplotlib raises
        _LOG.warning("the plot %r of the report could not be drawn: %s", title, problem)
        return {"title": title, "svg": "", "problem": f"{type(problem).__name__}: {problem}"}


def _stage_groups(report: BuildReport) -> Iterator[tuple[str, list[StageSeries]]]:
    """Group the series that share an axis: end to end by itself, then the components by metric."""
    whole = [series for series in report.stages if series.component is None]
    components = [series for series in report.stages if series.component is not None]
    for scope, found in ((END_TO_END, whole), ("per component", components)):
        for metric, unit in dict.fromkeys((series.metric, series.unit) for series in found):
            yield f"{metric}, {scope}", [one for one in found if (one.metric, one.unit) == (metric, unit)]


def _latency_groups(report: BuildReport) -> Iterator[tuple[str, list[LatencyRecord]]]:
    def axis(record: LatencyRecord) -> tuple[int, int, str]:
        return record.batch_size, record.concurrency, record.statistic

    for batch_size, concurrency, statistic in dict.fromkeys(map(axis, report.latencies)):
        same = [one for one in report.latencies if axis(one) == (batch_size, concurrency, statistic)]
        yield f"{statistic} at batch {batch_size}, concurrency {concurrency}", same


def _facts(facts: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested facts into rows, such as ``parity.8.cosine``; the rest of a long list is in the JSON."""
    for number, row in enumerate(_flat(facts, path)):
        if number == _MOST_FACTS:
            yield "…", "more in report.json"
            return
        yield row


def _flat(value: JsonValue, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key != KEPT:  # for programs
                yield from _flat(entry, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(entry, (dict, list)) for entry in value):
        for number, entry in enumerate(value[:_LONGEST_LIST]):
            yield from _flat(entry, f"{path}[{number}]")
    elif isinstance(value, list):
        more = f" … ({len(value)} in all)" if len(value) > _LONGEST_LIST else ""
        yield path, ", ".join(_scalar(entry) for entry in value[:_LONGEST_LIST]) + more
    else:
        yield path, _scalar(value)


def _scalar(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)

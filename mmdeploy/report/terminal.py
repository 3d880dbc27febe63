"""The end of a build in the terminal: `Summary`, a rich renderable, readable from 80 columns on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mmdeploy.choice.record import EngineChoice
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, GateRecord, StepRecord
from mmdeploy.report import choices, costs, coverage, power, sensitivities, subsets, trainings
from mmdeploy.report.units import (
    bytes_text,
    check_text,
    limit_text,
    ratio_text,
    remark_text,
    seconds_text,
    without_controls,
)
from mmdeploy.report.wording import (
    headline,
    next_steps,
    repository,
    sizes_and_total,
    substitute_warning,
    worst_first,
)

STYLES = {
    "pass": "green", "fail": "bold red", "inconclusive": "bold yellow",
    "ran": "", "reused": "dim", "failed": "bold red", "skipped": "dim",
}  # fmt: skip
_WIDE = 112
_UNLIMITED = 10_000
_ASCII = str.maketrans({"→": "->", "≥": ">=", "≤": "<=", "∞": "inf", "–": "-", "…": "...", "×": "x"})


class Summary:
    """Two tables, the verdict, where things are, what to do next.

    Args:
        report: What to show.
        files: The files of the report by format, as `mmdeploy.report.write_all` returns them.
        with_failure: Whether to say why a build stopped and what to do; not where the caller says it itself.
    """

    def __init__(
        self, report: BuildReport, files: Mapping[str, Path] | None = None, *, with_failure: bool = True
    ) -> None:
        self._report = report
        self._files = files or {}
        self._with_failure = with_failure or report.failure is None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        yield ""
        if report.steps and all(step.status == "skipped" for step in report.steps):
            yield _paragraph(f"none of {len(report.steps)} steps was reached", options)
            yield ""
        elif report.steps:
            steps = _step_table(report, options)
            yield steps if _fits(steps, console, options) else _lines(_step_lines(report), options)
            yield ""
        if found := choices.choices(report):
            yield from _chosen(found, options)
            yield ""
        if searched := sensitivities.searches(report):
            yield from (_paragraph(f"{step.id}: {sensitivities.told(search)}", options) for step, search in searched)
            yield ""
        if lines := [
            *(row.sentence for row in coverage.rows(report)),
            *_trained(report),
            *map(costs.sentence, costs.changed(report)),
            *costs.notes(report),
        ]:
            yield from (_paragraph(line, options) for line in lines)
            yield ""
        if warning := substitute_warning(report):
            yield _paragraph(warning, options, style="bold yellow")
            yield ""
        if report.gates:
            gates = _gate_table(report, options)
            yield gates if _fits(gates, console, options) else _lines(_check_lines(report), options)
            yield ""
        head, rows = subsets.matrix(report)
        if rows:
            table = _table(*head)
            for row in rows:
                table.add_row(*(plain(cell, options) for cell in row))
            yield table if _fits(table, console, options) else _lines(_subset_lines(head, rows), options)
            yield ""
        if notes := [*_check_notes(report), *power.sentences(report), *report.notes]:
            yield from (_paragraph(note, options) for note in notes)
            yield ""
        yield _paragraph(f"{report.recipe.name} {headline(report)}", options, style=STYLES[report.verdict])
        if report.failure is not None and self._with_failure:
            yield _paragraph(f"{report.failure.step}: {report.failure.message}".lstrip(": "), options)
        yield _paragraph(_figures(report), options)
        for label, path in self._places():
            yield _place(label, path, options)
        if self._with_failure:
            yield from (_paragraph(f"next: {advice}", options) for advice in next_steps(report))

    def _places(self) -> Iterable[tuple[str, Path | None]]:
        yield repository(self._report)
        shown = next((self._files[kind] for kind in ("html", "md", "json") if kind in self._files), None)
        if shown is not None:
            yield "report", shown
        if self._report.plain_recipe is not None:
            yield "plain recipe", self._report.plain_recipe


def plain(words: str, options: ConsoleOptions) -> str:
    """Return text that the terminal can show: no control characters, and ASCII where it has nothing else."""
    clean = without_controls(words)
    if not options.ascii_only:
        return clean
    return clean.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def change_text(before: int | None, after: int | None) -> str:
    """Return a size before and after, such as ``1.21 MiB → 363 KiB``; empty when neither is known."""
    return "" if before is None and after is None else f"{bytes_text(before)} → {bytes_text(after)}"


def _paragraph(words: str, options: ConsoleOptions, *, style: str = "") -> Text:
    return Text(plain(words, options), style=style, overflow="fold")


def _place(label: str, path: Path | None, options: ConsoleOptions) -> Text:
    """Keep a path in one piece where it fits on a line of its own, so that it can be copied."""
    line = f"{label}: {path}" if path is not None else label
    fits = len(line) <= options.max_width
    return Text(plain(line if fits else f"{label}:\n  {path}", options), overflow="fold")


def _figures(report: BuildReport) -> str:
    parts = [f"took {seconds_text(report.seconds)}"]
    if report.sizes:
        size = sizes_and_total(report)[-1]
        ratio = ratio_text(size.candidate_bytes, size.reference_bytes)
        change = change_text(size.reference_bytes, size.candidate_bytes)
        if size.reference_bytes is not None and size.candidate_bytes is not None:
            parts.append(f"{size.component} size {change} ({ratio} of FP32)")
    return "; ".join(parts)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Say whether a table fits without a word broken in two."""
    for column in table.columns:
        words = [word for cell in (column.header, *column.cells) for word in _pieces(str(cell), column.no_wrap)]
        column.min_width = max(column.min_width or 0, *(cell_len(word) for word in words))
    return Measurement.get(console, options.update(width=_UNLIMITED), table).minimum <= options.max_width


def _pieces(cell: str, whole_lines: bool) -> list[str]:
    return (cell.splitlines() if whole_lines else cell.split()) or [""]


def _lines(lines: Iterable[tuple[str, str]], options: ConsoleOptions) -> Group:
    return Group(*(_paragraph(line, options, style=STYLES[style]) for line, style in lines))


def _step_lines(report: BuildReport) -> Iterable[tuple[str, str]]:
    """Say of each step what its row would: names too long for a table."""
    for step in report.steps:
        parts: list[str] = [step.status]
        if step.status in ("ran", "failed"):
            parts.append(seconds_text(step.seconds))
        if change := change_text(step.size_before_bytes, step.size_after_bytes):
            parts.append(change)
        yield f"{step.id} ({step.method}): {', '.join(parts)}", step.status


def _check_lines(report: BuildReport) -> Iterable[tuple[str, str]]:
    for gate in worst_first(report):
        if not gate.checks:
            yield f"{gate.gate}: nothing was checked: {gate.verdict}", gate.verdict
        for check in gate.checks:
            measured = " ".join(part for part in check_text(check) if part)
            yield f"{gate.gate}, {check.name}: {measured}, limit {limit_text(check)}: {check.verdict}", check.verdict


def _subset_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[tuple[str, str]]:
    for row in rows:
        told = ", ".join(f"{name} {cell}" for name, cell in zip(head[1:], row[1:], strict=True) if cell)
        yield f"{row[0]}: {told}", row[-1]


def _step_table(report: BuildReport, options: ConsoleOptions) -> Table:
    wide = options.max_width >= _WIDE
    names = ("component", "step", "status", "time", plain("size before → after", options))
    table = _table(*names, *(["why"] if wide else []))
    for number in (2, 3, 4):
        table.columns[number].no_wrap = True
    table.columns[3].justify = table.columns[4].justify = "right"
    previous = ""
    order = list(dict.fromkeys(step.component for step in report.steps))
    in_chains = sorted(report.steps, key=lambda step: order.index(step.component))
    for _, alike in itertools.groupby(in_chains, _row_key):
        step, *others = alike
        rows = [step, *others]
        took = sum(one.seconds for one in rows)
        cells = [
            "" if step.component == previous else step.component,
            _step_name(step) if _row_key(step) == (step.id,) else f"{len(rows)} candidate{'s' if others else ''}",
            step.status,
            seconds_text(took) if step.status in ("ran", "failed") else "–",
            (change_text(step.size_before_bytes, step.size_after_bytes) if not others else "") or "–",
            *([step.why if not others else ""] if wide else []),
        ]
        table.add_row(*(Text(plain(cell, options)) for cell in cells), style=STYLES[step.status])
        previous = step.component
    return table


def _row_key(step: StepRecord) -> tuple[str, ...]:
    """Return what steps share a row by: the candidates of a component that ended alike; the choice tells them apart."""
    candidate = step.id.startswith(f"{step.component}/candidate.") and step.status != "failed"
    return (step.component, step.status) if candidate else (step.id,)


def _step_name(step: StepRecord) -> str:
    """Return a step's name without its component, and its method where the name does not say it."""
    name = step.id.removeprefix(f"{step.component}/")
    return f"{name} ({step.method})" if step.method and step.method not in name else name


def _chosen(found: Sequence[tuple[str, EngineChoice]], options: ConsoleOptions) -> Iterable[Table | Text]:
    """Show every candidate where there is room, else the ratios in a sentence; and why, in either case."""
    if options.max_width >= _WIDE:
        table = _table("component", "candidate", "p50", "of the reference", "drop", "size", "outcome")
        for number in (2, 3, 4, 5):
            table.columns[number].justify, table.columns[number].no_wrap = "right", True
        for component, choice in found:
            for number, row in enumerate(choices.rows(choice)):
                label, latency, ratio, interval, drop, size, outcome = row.cells
                cells = (component if number == 0 else "", label, latency, f"{ratio} {interval}", drop, size, outcome)
                style = STYLES["pass"] if row.ships else ""
                table.add_row(*(Text(plain(cell.strip(), options)) for cell in cells), style=style)
        yield table
        yield Text("")
    for component, choice in found:
        yield from (_paragraph(line, options) for line in choices.reasons(component, choice))
        if options.max_width < _WIDE:
            yield _paragraph(choices.sentence(component, choice), options)


def _trained(report: BuildReport) -> Iterable[str]:
    return (f"{step}: {trainings.told(course)}" for step, course in trainings.trainings(report))


def _gate_table(report: BuildReport, options: ConsoleOptions) -> Table:
    table = _table("gate", "check", "measured", "limit", "verdict")
    table.columns[2].justify = "right"
    for number in (0, 2, 4):
        table.columns[number].no_wrap = True
    table.columns[4].min_width = max(len(verdict) for verdict in Verdict)
    for gate in worst_first(report):
        for number, (cells, verdict) in enumerate(_gate_rows(gate, options.max_width >= _WIDE)):
            first = gate.gate if number == 0 else ""
            texts = [Text(plain(cell, options)) for cell in (first, *cells)]
            table.add_row(*texts, Text(verdict, style=STYLES[verdict]))
    return table


def _gate_rows(gate: GateRecord, wide: bool) -> Iterable[tuple[tuple[str, str, str], Verdict]]:
    if not gate.checks:
        yield ("nothing was checked", "–", "–"), gate.verdict
    for check in gate.checks:
        value, interval = check_text(check)
        yield (
            (check.name, f"{value}{' ' if wide else chr(10)}{interval}".strip(), limit_text(check)),
            check.verdict,
        )


def _check_notes(report: BuildReport) -> Iterable[str]:
    for gate in worst_first(report):
        for check in gate.checks:
            if check.verdict is not Verdict.PASS and (remark := remark_text(check)):
                yield f"{gate.gate}, {check.name}: {remark}"

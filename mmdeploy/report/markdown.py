"""A report as GitHub-flavoured Markdown, short enough for a comment on a pull request.

Text from recipes and tools is escaped: no table cell is broken, no tag or image is rendered, and nobody is
mentioned (GitHub looks for ``@name`` and ``#1`` after unescaping, so a zero-width space has to part them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, GateRecord, StageSeries, TableRecord
from mmdeploy.report import choices, costs, coverage, power, sensitivities, subsets, trainings
from mmdeploy.report.units import (
    basis_text,
    bytes_text,
    cell_text,
    check_text,
    figure_text,
    limit_text,
    ratio_text,
    remark_text,
    seconds_text,
    without_controls,
)
from mmdeploy.report.wording import (
    END_TO_END,
    PLAIN_RECIPE,
    TOTAL,
    headline,
    next_steps,
    repository,
    sizes_and_total,
    substitute_warning,
    worst_first,
)

_MARKS = {Verdict.PASS: "✅ pass", Verdict.FAIL: "❌ **fail**", Verdict.INCONCLUSIVE: "⚠️ **inconclusive**"}
_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")
_MENTION = re.compile(r"([@#])(?=\w)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def render(report: BuildReport) -> str:
    """Render the report as Markdown."""
    mark = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.INCONCLUSIVE: "⚠️"}[report.verdict]
    parts = [
        f"### {mark} {_text(report.recipe.name)}: {_text(headline(report))}",
        *_warnings(report),
        *_gates(report),
        *_subsets(report),
        *_sizes(report),
        *_coverage(report),
        *_costs(report),
        *_trainings(report),
        *_choices(report),
        *_searches(report),
        *_advice(report),
        *_gate_tables(report),
        *_folded("Where accuracy went", _stages(report)),
        *_courses(report),
        *_sensitivities(report),
        *_folded(f"Steps ({len(report.steps)})", _steps(report)),
        *_folded("Environment", _environment(report)),
    ]
    return "\n\n".join(parts) + "\n"


def render_gate(report: BuildReport, name: str) -> str:
    """Render what one gate of a report came to, by its method."""
    gates = tuple(gate for gate in report.gates if gate.gate == name)
    verdict = Verdict.of_all([gate.verdict for gate in gates])
    shown = report.model_copy(update={"gates": gates})
    head = f"### {_MARKS[verdict].split()[0]} {_text(report.recipe.name)}: {_text(name)} {verdict}"
    advice = [f"- {_text(gate.advice)}" for gate in gates if gate.advice]
    return "\n\n".join([head, *_gates(shown), *advice]) + "\n"


def _warnings(report: BuildReport) -> list[str]:
    found = []
    if warning := substitute_warning(report):
        found.append(f"> [!WARNING]\n> **{_text(warning)}**")
    if report.failure is not None:
        where = f"{_code(report.failure.step)}: " if report.failure.step else ""
        found.append(f"> [!CAUTION]\n> {where}{_text(report.failure.message)}")
    if report.notes:
        found.append("\n".join(f"- {_text(note)}" for note in report.notes))
    return found


def _gates(report: BuildReport) -> list[str]:
    if not report.gates:
        return []
    head = ("Gate", "Check", "Measured", "Limit", "Verdict")
    gates = worst_first(report)
    rows = [row for gate in gates for row in _gate_rows(gate)]
    noted = [
        f"- {_text(gate.gate)}, {_text(check.name)}: {_text(remark)}"
        for gate in gates
        for check in gate.checks
        if (remark := remark_text(check))
    ]
    noted += [f"- {_text(told)}" for told in power.sentences(report)]
    table = _table(head, rows, right=(2,))
    return [table, "\n".join(noted)] if noted else [table]


def _subsets(report: BuildReport) -> list[str]:
    """Show how each subset of the modalities does."""
    head, rows = subsets.matrix(report)
    if not rows:
        return []
    cells = [[_text(cell) for cell in row] for row in rows]
    return [f"**{subsets.TITLE}**", _table([_text(name) for name in head], cells, right=range(1, len(head) - 1))]


def _gate_tables(report: BuildReport) -> list[str]:
    return [
        part
        for gate in worst_first(report)
        for table in gate.tables
        for part in _folded(f"{gate.gate}: {table.title}", _gate_table(table))
    ]


def _gate_table(table: TableRecord) -> str:
    rows = [[_text(cell_text(cell)) for cell in row] for row in table.rows]
    note = f"\n\n{_text(table.note)}" if table.note else ""
    return _table([_text(name) for name in table.head], rows, right=range(1, len(table.head))) + note


def _gate_rows(gate: GateRecord) -> Iterable[tuple[str, ...]]:
    if not gate.checks:
        yield _text(gate.gate), "no checks", "", "", _MARKS[gate.verdict]
    for check in gate.checks:
        value, interval = check_text(check)
        basis = basis_text(check)
        measured = f"{value} {interval}".rstrip() + (f", {basis}" if basis else "")
        yield (
            _text(gate.gate),
            _text(check.name),
            _text(measured),
            _text(limit_text(check)),
            _MARKS[check.verdict],
        )


def _sizes(report: BuildReport) -> list[str]:
    if not report.sizes:
        return []
    rows = [
        (
            f"**{size.component}**" if size.component == TOTAL else _code(size.component),
            bytes_text(size.reference_bytes),
            bytes_text(size.candidate_bytes),
            ratio_text(size.candidate_bytes, size.reference_bytes),
        )
        for size in sizes_and_total(report)
    ]
    return [_table(("Size", "FP32", "Candidate", "Ratio"), rows, right=(1, 2, 3))]


def _coverage(report: BuildReport) -> list[str]:
    rows = [[_code(row.cells[0]), *(_text(cell) for cell in row.cells[1:])] for row in coverage.rows(report)]
    return [_table(coverage.HEAD, rows, right=(1, 2))] if rows else []


def _costs(report: BuildReport) -> list[str]:
    """Show what passes on modules changed; costs that nothing worked on are folded away."""
    if not report.costs:
        return []
    rows = [[_code(row[0]), *(_text(cell) for cell in row[1:])] for row in costs.rows(report)]
    table = _table(costs.HEAD, rows, right=range(1, len(costs.HEAD)))
    notes = "\n".join(f"- {_text(note)}" for note in costs.notes(report))
    return [*([table] if costs.changed(report) else _folded("Costs", table)), *([notes] if notes else [])]


def _trainings(report: BuildReport) -> list[str]:
    told = [f"- {_code(step)}: {_text(trainings.told(course))}" for step, course in trainings.trainings(report)]
    return ["\n".join(told)] if told else []


def _courses(report: BuildReport) -> list[str]:
    rows = [
        [_code(step), *(f"**{_text(cell)}**" if row.best else _text(cell) for cell in row.cells)]
        for step, course in trainings.trainings(report)
        for row in trainings.rows(course)
    ]
    table = _table(("Step", *trainings.HEAD), rows, right=range(1, 1 + len(trainings.HEAD)))
    return _folded("Training, epoch by epoch", table) if rows else []


def _choices(report: BuildReport) -> list[str]:
    found = choices.choices(report)
    if not found:
        return []
    told = [f"- {_text(line)}" for component, choice in found for line in choices.reasons(component, choice)]
    cells = [
        [_code(component), *(f"**{_text(cell)}**" if row.ships and cell else _text(cell) for cell in row.cells)]
        for component, choice in found
        for row in choices.rows(choice)
    ]
    table = _table(("Component", *choices.HEAD), cells, right=(2, 3, 5, 6))
    return [*(["\n".join(told)] if told else []), *_folded("Choices", table)]


def _searches(report: BuildReport) -> list[str]:
    found = sensitivities.searches(report)
    if not found:
        return []
    told = [f"- {_code(step.id)}: {_text(sensitivities.told(search))}" for step, search in found]
    rows = [
        [_code(step.id), *(_text(cell) for cell in row)]
        for step, search in found
        for row in sensitivities.decisions(search)
    ]
    table = _table(("Step", *sensitivities.DECISION_HEAD), rows) if rows else "Nothing had to be changed."
    return ["\n".join(told), *_folded("Decisions of the searches", table)]


def _sensitivities(report: BuildReport) -> list[str]:
    rows = [
        [_code(component), *(_text(cell) for cell in row)]
        for component, measured in sensitivities.sensitivities(report)
        for row in sensitivities.rows(measured)
    ]
    if not rows:
        return []
    return _folded(
        "Layer groups alone in INT8, worst first", _table(("Component", *sensitivities.HEAD), rows, right=(2, 4, 5, 6))
    )


def _advice(report: BuildReport) -> list[str]:
    words, path = repository(report)
    place = f"{words[0].upper()}{words[1:]}" + (f": {_code(str(path))}" if path is not None else ".")
    if report.plain_recipe is not None:
        place += f"\n\n{_text(PLAIN_RECIPE)}: {_code(str(report.plain_recipe))}"
    steps = "\n".join(f"- {_text(step)}" for step in next_steps(report))
    return [place, steps] if steps else [place]


def _stages(report: BuildReport) -> str:
    rows = [(_text(series.component or END_TO_END), _text(series.metric), _path(series)) for series in report.stages]
    return _table(("Where", "Metric", "Stage by stage"), rows) if rows else "Not measured."


def _path(series: StageSeries) -> str:
    stages = (f"{stage.label} {figure_text(stage.value, unit=series.unit)}" for stage in series.stages)
    return _text(" → ".join(stages))


def _steps(report: BuildReport) -> str:
    rows = [
        (
            _code(step.id),
            _text(step.method),
            f"**{step.status}**" if step.status == "failed" else step.status,
            seconds_text(step.seconds) if step.status in ("ran", "failed") else "–",
            f"{bytes_text(step.size_before_bytes)} → {bytes_text(step.size_after_bytes)}",
            _text(step.why),
        )
        for step in report.steps
    ]
    return _table(("Step", "Method", "Status", "Time", "Size", "Why"), rows, right=(3,)) if rows else "No steps."


def _environment(report: BuildReport) -> str:
    hardware = report.hardware
    rows = [
        ("mmdeploy", report.mmdeploy_version),
        ("recipe", f"{report.recipe.path}, sha256 {report.recipe.sha256}"),
        ("git revision", report.recipe.revision or "none"),
        ("target", str(report.target)),
        ("started", f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {seconds_text(report.seconds)}"),
        ("hardware", f"{hardware}; {' '.join(hardware.isa)}"),
        ("Triton", report.server_version or "not started"),
        *sorted(report.libraries.items()),
        ("seed", str(report.seed)),
    ]
    return _table(("What", "Value"), [(_text(name), _text(value)) for name, value in rows])


def _folded(title: str, body: str) -> list[str]:
    return [f"<details><summary>{_text(title)}</summary>", body, "</details>"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _text(words: str) -> str:
    escaped = _SPECIAL.sub(lambda match: "\\" + match.group(0), _one_line(words)).translate(_ENTITIES)
    return _MENTION.sub(r"\1&#8203;", escaped)


def _code(words: str) -> str:
    """Write a code span; GitHub splits table cells before it looks for code, so bars are escaped here too."""
    line = _one_line(words)
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line.replace('|', chr(92) + '|')}{pad}{fence}" if line else ""


def _one_line(words: str) -> str:
    return without_controls(" ".join(words.split()))

"""A report as JUnit XML: one test case a gate, so that a CI system shows the verdicts beside its tests.

A failed gate is a ``failure``, an undecided one is ``skipped`` with the reason, and a step that failed is a
test case of its own with an ``error``. Elements and their order are those of the JUnit schema that Jenkins
publishes. CI systems show a skipped test as harmless: the exit code of ``mmdeploy build`` is what stops a
pipeline on an inconclusive verdict. What was judged on a substitute says so in the name of its test case.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord, TableRecord
from mmdeploy.report import power, subsets
from mmdeploy.report.units import basis_text, cell_text, check_text, limit_text, remark_text, without_controls
from mmdeploy.report.wording import headline, substitute_warning, unique_names


def render(report: BuildReport) -> str:
    """Render the report as an XML document."""
    suite = ET.Element("testsuite", {"name": without_controls(report.recipe.name)})
    _properties(suite, report)
    for name, gate in unique_names(report.gates):
        _gate_case(suite, report, name, gate)
    if report.failure is not None:
        _failure_case(suite, report)
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": str(len(suite.findall("testcase/skipped"))),
        "time": f"{report.seconds:.3f}",
    }
    suite.attrib.update(counts, timestamp=f"{report.started_at:%Y-%m-%dT%H:%M:%S}")
    _text(
        suite, "system-out", "\n".join([f"{report.recipe.name} {headline(report)}", *_subsets(report), *report.notes])
    )
    # Jenkins' schema (xunit plugin, junit-10.xsd) knows no `skipped` on the root
    root = ET.Element("testsuites", {"name": "mmdeploy"} | {key: counts[key] for key in counts if key != "skipped"})
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _subsets(report: BuildReport) -> Iterator[str]:
    head, rows = subsets.matrix(report)
    if rows:
        yield f"{subsets.TITLE}: {', '.join(head)}"
        yield from (f"  {', '.join(row)}" for row in rows)


def _properties(suite: ET.Element, report: BuildReport) -> None:
    facts = {
        "mmdeploy": report.mmdeploy_version,
        "verdict": str(report.verdict),
        "recipe.sha256": report.recipe.sha256,
        **({"git.revision": report.recipe.revision} if report.recipe.revision else {}),
        "target": str(report.target),
        "hardware": f"{report.hardware}; {' '.join(report.hardware.isa)}",
        "triton": report.server_version or "not started",
        **({"substitute": report.substitute} if report.substitute is not None else {}),
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": name, "value": without_controls(value)})


def _gate_case(suite: ET.Element, report: BuildReport, name: str, gate: GateRecord) -> None:
    case = _case(suite, report, f"gate {name}{' [substitute]' if report.substitute else ''}", gate.seconds or 0.0)
    lines = [_check_line(check) for check in gate.checks]
    lines += power.of_gate(gate)
    lines += [line for table in gate.tables for line in _table_lines(table)]
    if warning := substitute_warning(report):
        lines.insert(0, warning)
    told = "; ".join(_check_line(check) for check in gate.checks if check.verdict is gate.verdict)
    if gate.verdict is Verdict.FAIL:
        attributes = {"message": without_controls(told), "type": "gate"}
        _text(case, "failure", "\n".join(lines), attributes)
        return
    if gate.verdict is Verdict.INCONCLUSIVE:
        ET.SubElement(case, "skipped", {"message": without_controls(f"inconclusive: {told}")})
    _text(case, "system-out", "\n".join(lines))


def _failure_case(suite: ET.Element, report: BuildReport) -> None:
    failure = report.failure
    if failure is None:
        return
    seconds = sum(step.seconds for step in report.steps if step.id == failure.step)
    case = _case(suite, report, f"step {failure.step or 'build'}", seconds)
    lines = [failure.message]
    lines += [f"hint: {failure.hint}"] if failure.hint else []
    lines += [f"log: {failure.log}"] if failure.log else []
    attributes = {"message": without_controls(failure.message), "type": "step"}
    _text(case, "error", "\n".join(lines), attributes)


def _case(suite: ET.Element, report: BuildReport, name: str, seconds: float) -> ET.Element:
    owner = without_controls(f"mmdeploy.{report.recipe.name}")
    return ET.SubElement(
        suite, "testcase", {"classname": owner, "name": without_controls(name), "time": f"{seconds:.3f}"}
    )


def _check_line(check: CheckRecord) -> str:
    value, interval = check_text(check)
    basis = basis_text(check)
    measured = f"{value} {interval}".rstrip() + (f", {basis}" if basis else "")
    line = f"{check.name}: {measured}, limit {limit_text(check)}: {check.verdict}"
    remark = remark_text(check)
    return f"{line} ({remark})" if remark else line


def _table_lines(table: TableRecord) -> Iterator[str]:
    yield f"{table.title}: {', '.join(table.head)}"
    yield from (f"  {', '.join(cell_text(cell) for cell in row)}" for row in table.rows)
    if table.note:
        yield f"  {table.note}"


def _text(parent: ET.Element, tag: str, words: str, attributes: dict[str, str] | None = None) -> None:
    ET.SubElement(parent, tag, attributes or {}).text = without_controls(words)

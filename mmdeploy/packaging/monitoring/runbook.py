"""The runbook: what each alert means and what to do first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.rule import LEVELS, Alert, Group, Recording, alerts


def runbook(known: Measured, groups: tuple[Group, ...]) -> str:
    """Return the runbook of an ensemble, in Markdown."""
    return "\n".join(_lines(known, groups)) + "\n"


def table(found: Iterable[Alert]) -> list[str]:
    """Return a table of alerts, worst first."""
    rows = [f"| `{one.name}` | {one.level} | {_first(one.meaning)} | {one.wait} |" for one in _worst_first(found)]
    return ["| alert | level | when | for |", "|---|---|---|---|", *rows]


def _worst_first(found: Iterable[Alert]) -> list[Alert]:
    return sorted(found, key=lambda one: one.level)


def _first(text: str) -> str:
    return text.split(". ")[0].rstrip(".")


def _lines(known: Measured, groups: tuple[Group, ...]) -> Iterator[str]:
    yield f"# Runbook of {known.ensemble}"
    yield ""
    yield f"Made of the release {known.build} by `mmdeploy package`. Its gates ran on {known.machine}."
    if known.allowed_by:
        yield f"Latency is judged by {known.allowed_by}."
    else:
        yield "The build has no gate of latency, so no alert judges how long answers take."
    if not known.confidence:
        yield "The build has no histogram of confidence, so no alert judges drift."
    yield ""
    yield from (f"- **{level}**: {meaning}" for level, meaning in LEVELS.items())
    yield ""
    yield from table(alerts(groups))
    for one in _worst_first(alerts(groups)):
        yield from ("", f"## {one.name}", "", f"{one.level}, {_held(one.wait)}. {one.meaning}", "")
        yield f"**Do:** {one.action}"
        yield from ("", "```", one.expr, "```")
    yield from ("", "## What is recorded", "", "| series | what it is |", "|---|---|")
    told = {one.record: one.meaning for group in groups for one in group.rules if isinstance(one, Recording)}
    yield from (f"| `{record}` | {meaning} |" for record, meaning in told.items())


def _held(wait: str) -> str:
    return "at once" if wait.strip("ms") == "0" else f"after {wait}"

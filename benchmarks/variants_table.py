"""The figures of `variants.py` as Markdown: a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from variants_rows import Component, Row

from mmdeploy.report.units import bytes_text, count_text, seconds_text

HEAD = (
    "", "top-1, 95 % interval", "drop, points", "bytes", "parameters", "FLOPs", "components' latency / FP32",
    "served p50 · p95, ms", "p50 / FP32", "samples/s, 8 clients", "built in", "gates",
)  # fmt: skip

AIMED_AT, MOST_BYTES, MOST_LATENCY, MOST_DROP = "pruned", 1 / 3, 1 / 2, 0.01


def markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Return the tables, and under them where and when they were measured."""
    first = rows[0]
    lines = ["| " + " | ".join(HEAD) + " |", "|---" + "|---:" * (len(HEAD) - 2) + "|---|"]
    lines += ["| " + " | ".join(_cells(row, first)) + " |" for row in rows]
    lines += ["", *_components(rows), "", *_aim(rows), *_where(facts)]
    return "\n".join(lines) + "\n"


def _cells(row: Row, first: Row) -> Iterator[str]:
    yield f"**{row.label}**"
    accuracy, low, high = row.accuracy
    yield f"{accuracy:.2%} ({low:.1%} to {high:.1%})"
    yield "" if row.drop is None else f"{100 * row.drop[0]:.2f} ({100 * row.drop[1]:.2f} to {100 * row.drop[2]:.2f})"
    yield f"{bytes_text(row.bytes)}{_share(row.bytes, first.bytes)}"
    sparse = (
        "" if row.nonzero_parameters > 0.99 * row.parameters else f", {count_text(row.nonzero_parameters)} not zero"
    )
    yield f"{count_text(row.parameters)}{sparse}"
    yield count_text(row.flops)
    total = row.components_ratio
    yield "1" if total is None else f"**{total:.2f}**"
    latency, throughput = row.served["latency"], row.served["throughput"]
    yield f"{latency.p50_ms[0]:.2f} · {latency.p95_ms[0]:.2f}"
    yield "1" if row is first else _ratio(latency.p50_ratio)
    yield f"{throughput.per_second:.0f}" + ("" if row is first else f", × {_ratio(throughput.rate_ratio)}")
    yield seconds_text(row.build_seconds)
    yield row.verdict


def _components(rows: Sequence[Row]) -> Iterator[str]:
    """Give what each component ships, and its latency over the FP32 original's in ONNX Runtime."""
    names = list(rows[0].components)
    yield "| latency / FP32 in ONNX Runtime, 95 % interval | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for row in rows[1:]:
        yield f"| **{row.label}** | " + " | ".join(_component(row.components[name]) for name in names) + " |"


def _component(part: Component) -> str:
    if part.ratio is None or part.interval is None:
        return part.engine
    return f"{part.ratio:.2f} ({part.interval[0]:.2f} to {part.interval[1]:.2f}), {part.engine}"


def _aim(rows: Sequence[Row]) -> Iterator[str]:
    """Say what became of what the pruned variant is to reach."""
    found = next((row for row in rows if row.label == AIMED_AT), None)
    if found is None or found.drop is None:
        return
    figures = (
        ("bytes", found.bytes / rows[0].bytes, MOST_BYTES),
        ("latency of the components together", found.components_ratio or 1.0, MOST_LATENCY),
        ("drop of top-1", found.drop[0], MOST_DROP),
    )
    told = [
        f"{what} {value:.3f}, at most {most:.3f}: {'met' if value <= most else 'missed'}"
        for what, value, most in figures
    ]
    yield f"The aim of `{AIMED_AT}`, shares of FP32: {'; '.join(told)}."
    yield ""


def _where(facts: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    before, after = facts["load_average"]
    yield (
        f"{facts['date']}, `{facts['command']}`: {facts['cpu']}, {facts['cores']} cores, {', '.join(facts['isa'])}; "
        f"Triton {facts['server']}; {versions}. One client and one sample a request unless said otherwise; "
        f"{facts['rounds']} rounds of all variants in turns; load average {before:.1f} before, {after:.1f} after."
    )


def _share(value: int, whole: int) -> str:
    return "" if value == whole or not whole else f" ({value / whole:.2f})"


def _ratio(found: tuple[float, float, float]) -> str:
    value, low, high = found
    return f"{value:.2f} ({low:.2f} to {high:.2f})"

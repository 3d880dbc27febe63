"""What comparisons found, in words: the rows of a table, a sentence each, a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.debugging.figures import LOWEST_DB
from mmdeploy.debugging.findings import Comparison, DebugReport, TensorFinding

HEAD = ("Tensor", "Operator", "SQNR", "Alone", "Max error")
#: Rows shown where something differs beyond the rounding of floats, and where nothing does.
_ROWS, _ROWS_ALIKE = 8, 3
_NAME_LETTERS, _OPERATOR_LETTERS = 26, 16


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row a tensor, the cells of `HEAD`, in the order of the graph: of many, those that tell most."""
    shown = _telling(comparison)
    return [
        (
            ("> " if one == comparison.first else "  ") + _short(one.label, _NAME_LETTERS),
            _short("Q/DQ pair" if one.tensor != one.reference else one.op_type, _OPERATOR_LETTERS),
            db_text(one.sqnr_db, finite=one.finite),
            db_text(one.own_sqnr_db) if one.own_known else "–",
            f"{one.max_error:.3g}",
        )
        for one in comparison.tensors
        if one in shown
    ]


def _telling(comparison: Comparison) -> list[TensorFinding]:
    tensors = list(comparison.tensors)
    wanted = [one for one in (comparison.first, comparison.grows_most) if one is not None]
    wanted += [one for one in tensors if one.is_output][:2]
    if comparison.first is not None:
        place = tensors.index(comparison.first)
        wanted += tensors[max(0, place - 2) : place] + tensors[place + 1 : place + 2]
    noisy = sorted((one for one in tensors if one not in wanted), key=_noise)
    many = comparison.first is not None or comparison.grows_most is not None
    return (list(dict.fromkeys(wanted)) + noisy)[: _ROWS if many else _ROWS_ALIKE]


def _noise(one: TensorFinding) -> float:
    values = [value for value in (one.sqnr_db, one.own_sqnr_db) if value is not None]
    return min(values, default=float("inf"))


def db_text(sqnr_db: float | None, *, finite: bool = True) -> str:
    """Return an SQNR as people read it."""
    if not finite:
        return "NaN or Inf"
    if sqnr_db is None:
        return "exact"
    return "none" if sqnr_db <= LOWEST_DB else f"{sqnr_db:.1f} dB"


def verdict(comparison: Comparison) -> str:
    """Return what a comparison came to, in a sentence."""
    pair = f"{comparison.what} against {comparison.against}"
    if comparison.skipped:
        return f"{pair}: not compared: {comparison.skipped}"
    if comparison.first is not None:
        return f"{pair}: {comparison.first.label} leaves its tolerance"
    count = len(comparison.tensors)
    return f"{pair}: {count} tensor{'s' if count != 1 else ''} compared, each within its tolerance"


def reasons(comparison: Comparison) -> Iterator[str]:
    """Yield what a reader must know besides: where and why, a sentence each."""
    first, most = comparison.first, comparison.grows_most
    if first is not None and not first.own_within:
        yield (
            f"{_node(first)} breaks it by itself: fed what should be there it answers with "
            f"{db_text(first.own_sqnr_db, finite=first.finite)} (tolerance: {first.tolerance})"
        )
    elif first is not None and first.own_known:
        yield f"no node breaks it by itself: errors add up until {_node(first)} (tolerance: {first.tolerance})"
    elif first is not None:
        yield (
            f"{_node(first)} is the first that is wrong when the engine ends there, with "
            f"{db_text(first.sqnr_db, finite=first.finite)} (tolerance: {first.tolerance}); what it depends on is right"
        )
    if most is not None and most != first and most.own_sqnr_db is not None:
        yield f"the error grows most at {_node(most)}: {db_text(most.own_sqnr_db)} by itself"
    yield from comparison.notes
    if comparison.reproduction is not None:
        made = comparison.reproduction
        if not made.reproduces:
            yield "the command below did not show the fault when it was tried: see command.log beside it"


def _node(one: TensorFinding) -> str:
    return f"{one.node or one.tensor} ({one.op_type})" if one.op_type else one.tensor


def _short(text: str, letters: int) -> str:
    """Cut the middle out of a name; what is not printable is one letter: a terminal's table escapes it with several."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    if len(text) <= letters:
        return text
    end = letters // 2
    return f"{text[: letters - end - 1]}…{text[-end:]}"


def markdown(report: DebugReport) -> str:
    """Return the page."""
    lines = [
        f"# {report.recipe}: {report.component}, tensor by tensor",
        "",
        f"{report.samples} samples of {report.source}. SQNR is the power of the reference over that of the difference; "
        "“alone” is the same of one node that is fed the reference's tensors. All tensors: `debug.json`.",
    ]
    for comparison in report.comparisons:
        lines += ["", f"## {comparison.stage}", "", f"{_capital(verdict(comparison))}."]
        lines += [f"- {reason}" for reason in reasons(comparison)]
        if comparison.tensors:
            lines += ["", _line(HEAD), _line(["---"] * len(HEAD))]
            lines += [_line([cell.replace("|", "\\|") for cell in row]) for row in rows(comparison)]
        if comparison.reproduction is not None:
            made = comparison.reproduction
            what = f"{made.nodes} node{'s' if made.nodes != 1 else ''} that show it, fed {', '.join(made.inputs)}:"
            lines += ["", what, "", "```sh", made.command, "```"]
    return "\n".join([*lines, ""])


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

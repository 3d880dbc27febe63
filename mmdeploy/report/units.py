"""Numbers as people read them: units, and no more digits than the measurement has.

A figure is written to the precision of its confidence interval, and always with enough digits that rounding
never puts it on the other side of, or onto, its limit: "0.995 fails >= 0.995" must not be seen.
"""

from __future__ import annotations

import math
import re

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import CheckRecord

NOT_MEASURED = "not measured"
_LIMIT = re.compile(r"[<>]=?\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")
_MAX_DECIMALS = 9
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def bytes_text(count: float | None) -> str:
    """Return a count of bytes with three significant digits, such as ``1.21 MiB``; an en dash for None."""
    if count is None:
        return "–"
    factor, unit = _byte_scale(count)
    scaled = count / factor
    return f"{scaled:.{0 if factor == 1 else max(0, 2 - _magnitude(max(scaled, 1.0)))}f} {unit}"


def count_text(count: float) -> str:
    """Return a count with three significant digits at most, such as ``812``, ``1.2 M`` or ``23.4 G``."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= factor * 0.9995:
            return f"{count / factor:#.3g}".rstrip("0").rstrip(".") + unit
    return f"{count:.0f}"


def seconds_text(seconds: float) -> str:
    """Return a duration, such as ``0.41 s``, ``31.7 s``, ``3 min 12 s`` or ``1 h 04 min``."""
    if 0 < seconds < 0.005:
        return "< 0.01 s"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def figure_text(value: float | None, interval: tuple[float, float] | None = None, *, unit: str = "") -> str:
    """Return a figure and its unit without its interval, as precise as the interval allows."""
    return check_text(
        CheckRecord(name="", measured=value, interval=interval, limit="", verdict=Verdict.PASS, unit=unit)
    )[0]


def interval_text(value: float | None, interval: tuple[float, float] | None, *, unit: str = "") -> str:
    """Return an interval such as ``[0.961, 0.982]``; empty for None."""
    return check_text(
        CheckRecord(name="", measured=value, interval=interval, limit="", verdict=Verdict.PASS, unit=unit)
    )[1]


def ratio_text(candidate: float | None, reference: float | None) -> str:
    """Return candidate over reference, such as ``0.31``; an en dash where it has no meaning."""
    if candidate is None or not reference:
        return "–"
    return number_text(candidate / reference, 2)


def check_text(check: CheckRecord) -> tuple[str, str]:
    """Return what was measured with its unit, and the interval (empty without one).

    Sizes are scaled to the same binary unit throughout.
    """
    factor, unit = 1.0, check.unit
    if unit == "bytes" and check.measured is not None and math.isfinite(check.measured):
        factor, unit = _byte_scale(check.measured)
    scaled = None if check.measured is None else check.measured / factor
    ends = None if check.interval is None else (check.interval[0] / factor, check.interval[1] / factor)
    limit = limit_number(check.limit)
    decimals = _decimals(scaled, ends, None if limit is None else limit / factor, unit)
    suffix = "" if not unit else unit if unit == "%" else f" {unit}"
    value = NOT_MEASURED if scaled is None else number_text(scaled, decimals) + suffix
    return (
        value,
        "" if ends is None else f"[{number_text(ends[0], decimals)}, {number_text(ends[1], decimals)}]",
    )


def limit_text(check: CheckRecord) -> str:
    """Return the limit with mathematical signs, and with a limit in bytes in a binary unit as well."""
    words = check.limit.replace(">=", "≥").replace("<=", "≤")
    number = limit_number(check.limit)
    if check.unit == "bytes" and number is not None and number >= 1024:
        return re.sub(r"\d[\d.eE+]*(?: bytes)?", bytes_text(number), words, count=1)
    return words


def margin_text(check: CheckRecord) -> str:
    """Return by how much a failed check misses its limit, such as ``misses the limit by 0.012``; else empty."""
    limit = limit_number(check.limit)
    if check.verdict is not Verdict.FAIL or limit is None or check.measured is None:
        return ""
    over = check.measured - limit if "<" in check.limit else limit - check.measured
    if not (over > 0 and math.isfinite(over)):
        return ""
    if check.unit == "bytes":
        return f"misses the limit by {bytes_text(over)}"
    suffix = "" if not check.unit else check.unit if check.unit == "%" else f" {check.unit}"
    return f"misses the limit by {number_text(over, min(max(1 - _magnitude(over), 0), _MAX_DECIMALS))}{suffix}"


def basis_text(check: CheckRecord) -> str:
    """Return how many samples a figure rests on, such as ``n = 1187``; empty where that says nothing."""
    return "" if check.samples is None or check.measured is None else f"n = {check.samples}"


def remark_text(check: CheckRecord) -> str:
    """Return what there is to say of a check: by how much it fails, and its note."""
    return "; ".join(part for part in (margin_text(check), check.note) if part)


def cell_text(cell: str | float | None) -> str:
    """Return a cell of a gate's table: numbers with four significant digits, an en dash for None."""
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def limit_number(limit: str) -> float | None:
    """Return the number that a limit in words compares with, or None when there is none."""
    match = _LIMIT.search(limit)
    return float(match.group(1)) if match else None


def number_text(value: float, decimals: int) -> str:
    """Return a number with fixed decimals; infinities and NaN as words that nobody takes for a figure."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and not -6 < _magnitude(value) < 9:
        return f"{value:.3g}"
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def without_controls(words: str) -> str:
    """Replace control characters: escape sequences would drive a terminal, and XML cannot hold them."""
    return _CONTROLS.sub("\ufffd", words)


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _byte_scale(count: float) -> tuple[float, str]:
    power = 0
    while abs(count) >= 1024 ** (power + 1) * 0.9995 and power < len(_BYTE_UNITS) - 1:
        power += 1
    return 1024.0**power, _BYTE_UNITS[power]


def _decimals(value: float | None, interval: tuple[float, float] | None, limit: float | None, unit: str) -> int:
    shown = [number for number in (value, *(interval or ())) if number is not None and math.isfinite(number)]
    if not shown:
        return 0
    natural = 1 if unit == "dB" else _natural_decimals(shown, interval)
    decimals = min(max(natural, 0), _MAX_DECIMALS)
    while limit is not None and decimals < _MAX_DECIMALS and any(_misleads(n, limit, decimals) for n in shown):
        decimals += 1
    return decimals


def _natural_decimals(shown: list[float], interval: tuple[float, float] | None) -> int:
    half_width = (interval[1] - interval[0]) / 2 if interval else 0.0
    if half_width > 0 and math.isfinite(half_width):
        leading = half_width / 10 ** _magnitude(half_width)
        return (1 if leading < 5 else 0) - _magnitude(half_width)
    value = shown[0]
    if value.is_integer() and abs(value) < 1e6:
        return 0
    decimals = 3 - _magnitude(value)
    if 0.9 < value < 1:  # of a cosine or an accuracy, the distance to 1 is what counts
        decimals = max(decimals, 1 - _magnitude(1 - value))
    return decimals


def _misleads(value: float, limit: float, decimals: int) -> bool:
    """Say whether rounding hides on which side of the limit a value is."""
    return value != limit and (round(value, decimals) - limit) * (value - limit) <= 0

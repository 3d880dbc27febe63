"""Plain JSON of what gates and passes hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

#: Numbers that JSON has not, as they are written.
NON_FINITE = ["Infinity", "-Infinity", "NaN"]


def jsonable(value: Any) -> JsonValue:
    """Turn what gates and passes hold (NumPy, tuples, paths, infinities) into plain JSON values."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _non_finite_name(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return [jsonable(entry) for entry in sorted(value, key=str)]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [jsonable(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return jsonable(value.tolist())
    return str(value)


def _non_finite_name(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")

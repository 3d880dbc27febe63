"""What a recipe can say and cannot mean: limits that never fail or never pass, ranges and sizes that do not exist.

What can be right in no recipe is a finding, and refuses it. What is allowed but proves little is a doubt, a sentence:
`mmdeploy validate` warns of it, and a build notes it in its report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.strings import BYTES
from mmdeploy.gates import accuracy, latency, memory, parity, size, throughput
from mmdeploy.recipe import caching
from mmdeploy.recipe.declared import Dim, InputSpec
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.schema import Recipe
from mmdeploy.scoring.builtin import METRICS
from mmdeploy.scoring.load import LoadOptions

#: A gRPC message is shorter than this.
_REQUEST_BYTES = 2**31
#: Of a ratio to the reference: beyond it a percentage was probably meant.
_ANY_RATIO = 10.0
#: A server with no model at all holds more.
_BARE_SERVER_BYTES = 2**24


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what can be right in no recipe."""
    for name, spec in recipe.inputs.items():
        if problem := _range_problem(spec):
            yield Finding(("inputs", name, "range"), problem)
    yield from _too_large(recipe)
    yield from caching.findings(recipe)
    for index, gate in enumerate(recipe.gates):
        for key, message in _impossible(gate, recipe):
            yield Finding(("gates", index, key), message)


def doubts(recipe: Recipe) -> list[str]:
    """Return what is allowed but proves little; a sentence each, with its place."""
    found = []
    for index, gate in enumerate(recipe.gates):
        found += [f"gates.{index}.{key}: {message}" for key, message in _vacuous(gate)]
    for name, component in recipe.components.items():
        if getattr(component.quantize, "samples", None) == 1:
            place = f"components.{name}.quantize.samples"
            found.append(f"{place}: ranges from one sample hold for that sample; take a hundred or more")
        if getattr(component.quantize, "method", None) == "dynamic" and component.serving.dynamic_batching is not None:
            found.append(
                f"components.{name}.quantize: dynamic takes one range for a whole batch, so an answer depends on which "
                "requests of others Triton puts beside it; take static, or dynamic_batching out"
            )
    found += caching.doubts(recipe)
    data = recipe.data
    if data.calibration is not None and data.calibration == data.evaluation:
        found.append(
            f"data.calibration: {data.calibration!r} is what the gates judge on too: INT8 ranges that fit these very "
            "samples make the verdict look better than it is; name another split"
        )
    return found


def _range_problem(spec: InputSpec) -> str:
    if spec.range is None:
        return ""
    low, high = spec.range
    if spec.dtype == BYTES:
        return "BYTES have no range: limit what a step of preprocess takes, or remove it"
    if low > high:
        return f"the lowest value, {low:g}, is above the highest, {high:g}: did you mean [{high:g}, {low:g}]?"
    least, most = _values(spec.dtype)
    if (least is not None and high < least) or (most is not None and low > most):
        return f"no {spec.dtype} lies in [{low:g}, {high:g}]: its values are {least} to {most}"
    if least is not None and math.ceil(low) > math.floor(high):
        return f"no {spec.dtype}, a whole number, lies in [{low:g}, {high:g}]"
    return ""


def _values(dtype: str) -> tuple[int | None, int | None]:
    """Return the least and the largest value of an integer type; None of other types."""
    if dtype == "BOOL":
        return 0, 1
    if not dtype.lstrip("U").startswith("INT"):
        return None, None
    bits, signed = int(dtype.lstrip("UINT")), not dtype.startswith("U")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _too_large(recipe: Recipe) -> Iterator[Finding]:
    """Find inputs of which one request of the largest batch cannot be sent.

    A size that varies counts as its largest; one without a name as 1.
    """
    if not recipe.components:
        return
    batch = max(1, recipe.max_batch_size)
    bytes_of = {
        name: math.prod(_largest(recipe, dim) for dim in spec.shape) * _item_bytes(spec.dtype)
        for name, spec in recipe.inputs.items()
    }
    total = sum(bytes_of.values())
    if total * batch < _REQUEST_BYTES or not bytes_of:
        return
    name = max(bytes_of, key=lambda one: bytes_of[one])
    largest = (_REQUEST_BYTES - 1) // total
    smaller = f"; at most {largest} fit: set serving.max_batch_size" if largest and recipe.max_batch_size else ""
    message = (
        f"a request of {batch} {'samples' if batch > 1 else 'sample'} holds {total * batch / 2**30:.3g} GiB of inputs, "
        f"{bytes_of[name] * batch / 2**30:.3g} of them this one, and a message over gRPC less than 2 GiB{smaller}"
    )
    yield Finding(("inputs", name, "shape"), message)


def _largest(recipe: Recipe, dim: Dim) -> int:
    if isinstance(dim, str):
        return recipe.sizes[dim].max if dim in recipe.sizes else 1
    return max(1, dim)


def _item_bytes(dtype: str) -> int:
    digits = "".join(character for character in NUMPY_BY_DTYPE.get(dtype, "") if character.isdigit())
    return max(1, int(digits or 8) // 8)


def _impossible(gate: MethodOptions, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Give limits that nothing keeps, and drops that are no drops: probably given in percent."""
    if isinstance(gate, accuracy.Options):
        yield from _impossible_scores(gate)
    if isinstance(gate, parity.Options) and gate.min_sqnr_db is not None and gate.min_sqnr_db > parity.SQNR_EXACT_DB:
        yield "min_sqnr_db", f"can never pass: equal answers count as {parity.SQNR_EXACT_DB:g} dB"
    if isinstance(gate, LoadOptions | memory.Options) and recipe.components:
        largest = max(1, recipe.max_batch_size)
        if gate.batch > largest:
            yield "batch", f"can never pass: the ensemble takes batches of up to {largest}, not of {gate.batch}"


def _impossible_scores(gate: accuracy.Options) -> Iterator[tuple[str, str]]:
    larger_is_better = METRICS[gate.metric].larger_is_better if gate.metric in METRICS else None
    if larger_is_better is False and gate.max is not None and gate.max < 0.0:
        yield "max", f"can never pass: {gate.metric} is 0 or more, not {gate.max:g}"
    if not larger_is_better:
        return
    if gate.min is not None and gate.min > 1.0:
        yield (
            "min",
            f"can never pass: {gate.metric} lies between 0 and 1, and {gate.min:g} is above{_percent(gate.min)}",
        )
    for key, what in (("max_drop", "a drop"), ("max_relative_drop", "a relative drop")):
        limit = getattr(gate, key)
        if limit is not None and limit > 1.0:
            told = f"can never fail: {gate.metric} lies between 0 and 1, so {what} is at most 1, not {limit:g}"
            yield key, told + _percent(limit)


def _percent(value: float) -> str:
    return f"; {value:g} % are {value / 100:g}" if value <= 100.0 else ""


def _vacuous(gate: MethodOptions) -> Iterator[tuple[str, str]]:
    """Give limits that everything keeps, or hardly anything."""
    if isinstance(gate, accuracy.Options):
        yield from _vacuous_scores(gate)
    if isinstance(gate, parity.Options):
        yield from _vacuous_parity(gate)
    if isinstance(gate, latency.Options | size.Options | memory.Options):
        ratio = gate.max_ratio_to_reference
        if ratio is not None and ratio >= _ANY_RATIO:
            yield (
                "max_ratio_to_reference",
                f"{ratio:g} is {ratio:g} times the reference; {ratio:g} % are {ratio / 100:g}",
            )
    if isinstance(gate, throughput.Options) and (gate.min_ratio_to_reference or 1.0) <= 1.0 / _ANY_RATIO:
        yield "min_ratio_to_reference", f"a candidate {1 / (gate.min_ratio_to_reference or 1.0):g} times slower passes"
    if isinstance(gate, memory.Options) and gate.max_bytes is not None and gate.max_bytes < _BARE_SERVER_BYTES:
        yield "max_bytes", f"{gate.max_bytes} bytes: a server without any model holds more, so nothing can pass"


def _vacuous_scores(gate: accuracy.Options) -> Iterator[tuple[str, str]]:
    if gate.metric not in METRICS or not METRICS[gate.metric].larger_is_better:
        return
    if gate.min is not None and gate.min <= 0.0:
        yield "min", f"can never fail: {gate.metric} is never below 0"
    for key in ("max_drop", "max_relative_drop"):
        if getattr(gate, key) == 1.0:
            yield key, f"can never fail: {gate.metric} cannot lose more than 1"


def _vacuous_parity(gate: parity.Options) -> Iterator[tuple[str, str]]:
    least: dict[str, tuple[float, str]] = {
        "min_cosine": (-1.0, "no cosine is below -1"),
        "min_exact_match": (0.0, "no share is below 0"),
        "min_overlap_at_k": (0.0, "no share is below 0"),
        "min_sqnr_db": (-parity.SQNR_EXACT_DB, "no SQNR counts as less"),
    }
    for key, (lowest, why) in least.items():
        value: Any = getattr(gate, key)
        if value is not None and value <= lowest:
            yield key, f"can never fail: {why}"
    if gate.min_sqnr_db is not None and -parity.SQNR_EXACT_DB < gate.min_sqnr_db <= 0.0:
        yield "min_sqnr_db", f"{gate.min_sqnr_db:g} dB: an answer of zeros passes, its noise is as large as the signal"
    if gate.samples == 1:
        yield "samples", "one sample says little about others; take a hundred or more"

"""A proposed recipe as YAML, with comments that say what was seen and what to make of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from mmdeploy.core.version import __version__
from mmdeploy.recipe.wiring import MARK, PLACEHOLDER
from mmdeploy.scaffold.drop_limit import drop_limit
from mmdeploy.scaffold.proposal import MOST_CALIBRATION, Proposal, Tensor
from mmdeploy.scaffold.wiring import Gap, Part
from mmdeploy.scaffold.yaml_lines import WIDTH, block, flow

_COLUMN = 45
#: Layers that INT8 makes faster.
_QUANTIZED = ("Linear", "Conv1d", "Conv2d", "Conv3d", "MultiheadAttention", "Conv1D")


def recipe_text(proposal: Proposal, notes: Sequence[str] = ()) -> str:
    """Write a proposal as a recipe, with notes at its head."""
    lines = [
        *_head(proposal, notes), *_model(proposal), *_sizes(proposal), *_inputs(proposal), *_components(proposal),
        *_outputs(proposal), *_gates(proposal),
    ]  # fmt: skip
    return "\n".join(line.rstrip(" ") for line in lines) + "\n"


def _told(line: str, comment: str) -> str:
    """Put a comment behind a line, where those of other lines are."""
    return f"{line:<{_COLUMN}} # {comment}"


def _comment(text: str, indent: str = "") -> list[str]:
    width = WIDTH - len(indent) - 2
    return [f"{indent}# {line}" for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)]


def _head(proposal: Proposal, notes: Sequence[str]) -> Iterator[str]:
    told = proposal.told
    if told.schema:
        yield f"# yaml-language-server: $schema={told.schema}"
    yield f"# Proposed by mmdeploy init {__version__}: a start, to be changed. See docs/begin.md."
    for remark in notes:
        yield from _comment(remark)
    for name in proposal.wiring.left_out:
        yield from _comment(f"Left out: {name}. It has weights, and no component calls it.")
    for gap in proposal.wiring.gaps:
        if not gap.component:
            yield from _marked(gap, "")
    yield "schema_version: 1"
    yield f"name: {flow(told.name)}"
    yield f"target: {told.target}"
    if told.folder:
        yield f"folder: {flow(told.folder)}"


def _model(proposal: Proposal) -> Iterator[str]:
    told = proposal.told
    yield "model:"
    yield f"  factory: {flow(told.factory)}"
    if told.weights:
        yield f"  weights: {flow(told.weights)}"
    if told.prefix:
        yield f"  prefix: {flow(dict(told.prefix))}"
    yield _told("data:", "each gives samples: a dict of arrays, or (dict, label)")
    yield f"  calibration: {flow(told.calibration)}"
    yield f"  evaluation: {flow(told.evaluation)}"


def _sizes(proposal: Proposal) -> Iterator[str]:
    if not proposal.sizes:
        return
    seen = proposal.looked.seen
    yield _told("sizes:", f"as seen in {seen.count} samples: write what clients may send")
    for size in proposal.sizes:
        fields = {"min": size.min, "max": size.max}
        if size.multiple_of > 1:
            fields["multiple_of"] = size.multiple_of
        yield f"  {size.name}: {flow(fields)}"


def _inputs(proposal: Proposal) -> Iterator[str]:
    yield _told("inputs:", "what clients send, without the batch")
    for name, one in proposal.looked.seen.inputs.items():
        fields: dict[str, Any] = _declared(proposal.tensors[name])
        if name in proposal.ranges:
            fields["range"] = list(proposal.ranges[name])
        optional = proposal.optional.get(name)
        if optional is not None:
            yield from _comment(optional.told_of(name), "  ")
            left_out = f"  {flow(name)}: {flow({**fields, 'optional': True, 'missing': optional.missing})}"
            if optional.lacking:
                yield left_out
                continue
            yield f"  #{left_out[1:]}"
        line = f"  {flow(name)}: {flow(fields)}"
        known = name in proposal.ranges or one.dtype == "BOOL"
        yield line if known else _told(line, f"seen: {one.low:.4g} to {one.high:.4g}")


def _declared(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape)}


def _components(proposal: Proposal) -> Iterator[str]:
    yield "components:"
    for part in proposal.wiring.parts:
        yield from _component(proposal, part)


def _component(proposal: Proposal, part: Part) -> Iterator[str]:
    for gap in proposal.wiring.gaps:
        if gap.component == part.name:
            yield from _marked(gap, "  ")
    weights = sum(parameter.numel() for parameter in part.module.parameters())
    yield _told(f"  {flow(part.name)}:", f"{type(part.module).__name__}, {_counted(weights)} parameters")
    yield f"    module: {flow(part.path)}"
    wired = {argument: tensor or f"{PLACEHOLDER}{argument}" for argument, tensor in part.inputs.items()}
    yield f"    inputs: {flow(wired or {f'{PLACEHOLDER}input': f'{PLACEHOLDER}tensor'})}"
    yield from block("outputs", {key: _wire(proposal, tensor) for key, tensor in part.outputs.items()})
    yield from _quantize(proposal, part)
    yield f"    serving: {flow({'max_batch_size': proposal.max_batch_size})}"


def _wire(proposal: Proposal, tensor: str) -> Any:
    known = proposal.tensors[tensor]
    if not known.shape or None in known.shape:
        return {"tensor": tensor, "dtype": known.dtype}
    return {"tensor": tensor, **_declared(known)}


def _quantize(proposal: Proposal, part: Part) -> Iterator[str]:
    if not any(type(one).__name__ in _QUANTIZED for one in part.module.modules()):
        yield "    # no quantize section: nothing in it that INT8 would make faster"
        return
    samples = min(MOST_CALIBRATION, proposal.told.calibration_samples) or MOST_CALIBRATION
    yield _told(
        f"    quantize: {flow({'method': 'static', 'samples': samples})}", "INT8; ships only where measured faster"
    )


def _outputs(proposal: Proposal) -> Iterator[str]:
    missing = any(not gap.component for gap in proposal.wiring.gaps) or not proposal.wiring.outputs
    names = [*([f"{PLACEHOLDER}output"] if missing else []), *proposal.wiring.outputs]
    outputs: dict[str, dict[str, str]] = {name: {} for name in names}
    yield f"outputs: {flow(outputs)}"


def _gates(proposal: Proposal) -> Iterator[str]:
    yield _told("gates:", "all must pass, or nothing is published")
    yield "  # Answers against the PyTorch model's: the least cosine. Raise it to what a build reaches."
    yield "  - {method: parity, min_cosine: 0.98}"
    yield from _accuracy(proposal)
    yield "  # Bytes and latency as shares of FP32's. Loose to begin with: large models in INT8 reach 0.3 and 0.6."
    yield "  - {method: size, max_ratio_to_reference: 1.1}"
    yield "  - {method: latency, percentile: p50, max_ratio_to_reference: 1.5}"


def _accuracy(proposal: Proposal) -> Iterator[str]:
    seen, metric = proposal.looked.seen, proposal.metric()
    if metric is None:
        why = "the samples have no labels" if not seen.labels else "the labels do not say which metric"
        yield f"  # No accuracy gate: {why}. See `mmdeploy list gates.accuracy`; with class ids:"
        yield "  # - {method: accuracy, metric: top1, max_drop: 0.01}"
        return
    limit = drop_limit(proposal.told.evaluation_samples)
    yield from _comment(
        f"The share of right answers that may be lost against the PyTorch model. {limit.why}".rstrip(), "  "
    )
    yield f"  - {flow({'method': 'accuracy', 'metric': metric, **limit.options})}"


def _marked(gap: Gap, indent: str) -> Iterator[str]:
    yield from _comment(f"{MARK}: {gap}", indent)
    yield from (f"{indent}#     {line}" for line in gap.lines)
    yield from _comment(_advice(gap), indent)


def _advice(gap: Gap) -> str:
    if gap.advice:
        return gap.advice
    if gap.argument == "return":
        return "Let its forward return a tensor, a tuple of tensors, or a dict of them."
    if not gap.component:
        return "Let a module make it: move these lines into the forward of the last one, then name its output here."
    if gap.lines:
        return (
            "Move these lines into the forward of a module: the end of the one before, or the start of "
            f"{gap.component}. Then run init again, or write the tensor's name here."
        )
    return f"Let {gap.component} take and give tensors alone, a row for each sample, each by name; then run init again."


def _counted(number: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)

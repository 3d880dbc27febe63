"""The recipe of a checkpoint, with comments that say what to make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdeploy.core.version import __version__
from mmdeploy.model.weight_files import Prefix
from mmdeploy.scaffold.pretrained_parts import Form, Part
from mmdeploy.scaffold.pretrained_readers import SECONDS, AudioReader, Reader, TextReader
from mmdeploy.scaffold.yaml_lines import block, flow

_BATCH = 8
_SAMPLES = 64
_SENT = {"image": "PNG, JPEG, WebP", "audio": "WAV, FLAC, OGG, MP3", "text": "UTF-8"}
_EMPTY = '""'
#: Output of a step, by argument of the model.
_STEP_OUTPUTS = {"input_ids": "ids", "attention_mask": "mask", "pixel_values": "pixels", "input_values": "samples"}
_STEP_INPUTS = {"text": "text", "image": "data", "audio": "data"}


def inputs_of(form: Form) -> dict[str, str]:
    """Return the ensemble's tensors that hold files and texts as clients send them, by kind."""
    return {part.reader.kind: part.reader.kind for part in form.parts if part.reader and part.reader.step}


def recipe_text(form: Form, told: Mapping[str, Any], prefix: Prefix | None) -> str:
    """Write the recipe.

    Args:
        form: What is served.
        told: Its ``name``, ``target``, the ``checkpoint`` as a path, and ``schema``, a path or None.
        prefix: Where the checkpoint's tensors belong; None where the factory loads them.
    """
    lines = [
        *_head(form, told, prefix), *_sizes(form), *_inputs(form), *_preprocess(form, told), *_components(form),
        *_ends(form),
    ]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _head(form: Form, told: Mapping[str, Any], prefix: Prefix | None) -> Iterator[str]:
    if told["schema"]:
        yield f"# yaml-language-server: $schema={told['schema']}"
    yield f"# Proposed by mmdeploy init {__version__} of {type(form.served).__name__}: a start, to be changed."
    yield from (f"# {note[0].upper()}{note[1:]}." for note in form.notes)
    yield from ["schema_version: 1", f"name: {flow(told['name'])}", f"target: {told['target']}", "model:"]
    yield "  factory: model.py:build"
    if prefix is None:
        yield "  # No weights here: transformers renames the tensors of these files, so the factory loads them."
    else:
        yield f"  weights: {flow(told['checkpoint'])}"
        yield f"  prefix: {_prefix(prefix)}           # the folder's tensors are that part of the factory's"
    yield "data:                                # your own files: see the marked place in data.py"
    yield "  calibration: data.py:calibration"
    yield "  evaluation: data.py:evaluation"


def _prefix(prefix: Prefix) -> str:
    """Write a prefix; YAML would say ``? ''`` for an empty name."""
    return "{" + ", ".join(f"{flow(path) if path else _EMPTY}: {flow(into)}" for path, into in prefix.items()) + "}"


def _readers(form: Form) -> list[tuple[Part, Reader]]:
    return [(part, part.reader) for part in form.parts if part.reader is not None]


def _sizes(form: Form) -> Iterator[str]:
    lines = []
    for _, reader in _readers(form):
        if isinstance(reader, TextReader) and not reader.filled:
            lines.append(f"  tokens: {{min: {reader.fewest}, max: {reader.most}}}")
        elif isinstance(reader, AudioReader) and reader.is_raw:
            low, high = (int(seconds * reader.rate) for seconds in SECONDS)
            bounds = f"{SECONDS[0]:g} to {SECONDS[1]:g} s at {reader.rate} Hz"
            lines.append(f"  samples: {{min: {low}, max: {high}}}   # {bounds}: what clients may send")
    yield from ["sizes:", *lines] if lines else []


def _inputs(form: Form) -> Iterator[str]:
    yield "inputs:                              # what clients send, without the batch"
    for part, reader in _readers(form):
        if reader.step:
            what = _SENT[reader.kind]
            yield f"  {reader.kind}: {{dtype: BYTES, shape: [1]}}   # {what}"
            continue
        yield f"  # No step of preprocess does what this checkpoint's {reader.kind} processor does: clients do it."
        for name in part.reads:
            declared = _declared(reader, name)
            if name == "attention_mask":
                declared["range"] = [0, 1]
            elif isinstance(reader, TextReader):
                declared["range"] = [0, max(1, len(reader.tokenizer) - 1)]
            yield f"  {name}: {flow(declared)}"


def _declared(reader: Reader, name: str) -> dict[str, Any]:
    array = reader.feeds(reader.samples()[0])[name]
    shape: list[Any] = [int(size) for size in array.shape[1:]]
    if isinstance(reader, TextReader) and not reader.filled:
        shape = ["tokens"]
    elif isinstance(reader, AudioReader) and reader.is_raw:
        shape = ["samples"]
    return {"dtype": "INT64" if reader.kind == "text" else "FP32", "shape": shape}


def _preprocess(form: Form, told: Mapping[str, Any]) -> Iterator[str]:
    steps = [(part, reader) for part, reader in _readers(form) if reader.step]
    if not steps:
        return
    yield "preprocess:                          # equal to the checkpoint's own processor: tried on made-up samples"
    for part, reader in steps:
        options = dict(reader.step or {})
        yield f"  read_{reader.kind}:"
        yield f"    method: {options.pop('method')}"
        yield f"    inputs: {{{_STEP_INPUTS[reader.kind]}: {reader.kind}}}"
        yield f"    outputs: {flow({_STEP_OUTPUTS[name]: name for name in part.reads})}"
        if reader.kind == "text":
            yield f"    tokenizer: {flow(told['checkpoint'].rstrip('/') + '/tokenizer.json')}"
        yield from (f"    {key}: {flow(value)}" for key, value in options.items())


def _components(form: Form) -> Iterator[str]:
    yield "components:"
    for part in form.parts:
        yield f"  {part.name}:  # {part.doc[0].lower()}{part.doc[1:].rstrip('.')}"
        yield f"    module: {part.name}"
        yield from block("inputs", {name: _read(part, name) for name in part.reads})
        yield from block("outputs", {name: _written(part, name) for name in part.writes})
        if part.reader is not None:
            yield f"    quantize: {{method: static, samples: {_SAMPLES}}}   # INT8; ships only where measured faster"
        yield f"    serving: {{max_batch_size: {_BATCH}}}"


def _read(part: Part, name: str) -> Any:
    if part.reader is None:
        return f"{name}_embedding"
    return {"tensor": name, **_declared(part.reader, name)}


def _tensor(part: Part, name: str) -> str:
    return f"{part.name}_{name}" if name == "embedding" else name


def _written(part: Part, name: str) -> Any:
    shape = part.writes[name]
    return _tensor(part, name) if shape is None else {"tensor": _tensor(part, name), "dtype": "FP32", "shape": [*shape]}


def _ends(form: Form) -> Iterator[str]:
    outputs: dict[str, dict[str, str]] = {_tensor(part, name): {} for part in form.parts for name in part.writes}
    yield f"outputs: {flow(outputs)}"
    yield "gates:                               # all must pass, or nothing is published"
    yield "  # Answers against transformers' own: the least cosine. Raise it to just below what a build reports."
    yield "  - {method: parity, min_cosine: 0.98}"
    yield "  # The share of right answers that may be lost; needs labels: see data.py, `mmdeploy list gates.accuracy`."
    yield "  # - {method: accuracy, metric: top1, max_drop: 0.01}"
    yield "  # Bytes and latency as shares of FP32's. Loose to begin with: large models in INT8 reach 0.3 and 0.6."
    yield "  - {method: size, max_ratio_to_reference: 1.1}"
    yield "  - {method: latency, percentile: p50, max_ratio_to_reference: 1.5}"

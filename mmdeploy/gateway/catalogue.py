"""What served models take and give, in a client's terms: read from the configurations that the server has loaded.

A release writes down what its steps do (``mmdeploy.options``) and what its inputs must keep (``mmdeploy.inputs``), so
a server that runs tells that an input of BYTES is a picture, that an output is shares of 1 and which labels belong to
which scores. Names of classes lie in files of the release: they are known where it is at hand.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.strings import BYTES
from mmdeploy.triton.sequences import STREAM_PARAMETER

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

logger = logging.getLogger(__name__)

Kind = Literal["image", "audio", "video", "text", "bytes", "tensor"]
Meaning = Literal["probabilities", "logits", "labels", "class_ids", "top_scores", "values", "strings"]

_KIND_OF_METHOD: Mapping[str, Kind] = {
    "decode_image": "image",
    "decode_audio": "audio",
    "sample_frames": "video",
    "tokenize": "text",
}
#: Beside a release: which outputs are scores of classes, and how sure of them it was when it was built.
CONFIDENCE = "confidence.json"
_NAMES_OF_SCORES = ("logit", "score", "prob")
_SHORTEST_SOUND = 400
_MOST_LABELS = 100_000


@dataclass(frozen=True)
class Input:
    """What a model takes.

    Attributes:
        spec: Name, type and shape of a row.
        kind: What a client sends.
        optional: Whether it may be left out.
        marker: The input that tells which rows have it, where there is one.
        span: Lowest and highest value that is taken; None for any.
    """

    spec: TensorSpec
    kind: Kind = "tensor"
    optional: bool = False
    marker: str | None = None
    span: tuple[float, float] | None = None

    @property
    def looks_like(self) -> Kind:
        """What its numbers may be, by type and shape: for a page that offers to make them of a file."""
        shape = self.spec.shape
        if self.kind != "tensor" or not shape:
            return self.kind
        plane = [size for size in shape if size not in (1, 3)] if len(shape) == 3 else list(shape)
        if len(shape) in (2, 3) and len(plane) == 2 and all(size >= 4 for size in plane) and self._of_pixels:
            return "image"
        floating = self.spec.dtype in ("FP32", "FP16", "FP64")
        return "audio" if len(shape) == 1 and floating and (shape[0] >= _SHORTEST_SOUND or shape[0] == -1) else "tensor"

    @property
    def _of_pixels(self) -> bool:
        return self.spec.dtype == "UINT8" or (len(self.spec.shape) == 3 and self.spec.dtype in ("FP32", "FP16"))


@dataclass(frozen=True)
class Output:
    """What a model gives.

    Attributes:
        spec: Name, type and shape of a row.
        meaning: What its values are.
        labels: Names of classes, where they are known.
    """

    spec: TensorSpec
    meaning: Meaning
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Best:
    """Outputs that together are the best classes of a row, the best first.

    Attributes:
        labels: Output with their names, or None.
        ids: Output with their numbers, or None.
        scores: Output with their scores, or None.
        shares: Whether the scores are shares of 1.
    """

    labels: str | None
    ids: str | None
    scores: str | None
    shares: bool


@dataclass(frozen=True)
class Model:
    """A model that clients ask.

    Attributes:
        name: Its name.
        inputs: What it takes, by name, without those that mark rows.
        outputs: What it gives, by name.
        max_batch_size: Rows of a request at most; 0 where it takes no rows.
        best: Its best classes, where outputs hold them.
        release: Id of the release that is at hand; None where none is.
        stream: Whether it takes samples in chunks, as sequences.
    """

    name: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    max_batch_size: int
    best: tuple[Best, ...] = ()
    release: str | None = None
    stream: bool = False

    def signature(self) -> tuple[object, ...]:
        """What another model must have for it to answer the same requests."""
        return (
            tuple((one.spec, one.optional) for one in self.inputs.values()),
            tuple(one.spec for one in self.outputs.values()),
        )


def models_of(configs: Mapping[str, ModelConfig], repositories: Iterable[Path] = ()) -> dict[str, Model]:
    """Describe the models that clients ask: those that are no part of another.

    Args:
        configs: Of all that the server has loaded, by name.
        repositories: Releases that are at hand, for the names of classes.
    """
    return {name: described(name, configs, repositories) for name in _outer(configs)}


def described(name: str, configs: Mapping[str, ModelConfig], repositories: Iterable[Path] = ()) -> Model:
    """Describe one model, whether it is a part of another or not."""
    places = {path.name: folder for folder in repositories for path in folder.iterdir() if path.is_dir()}
    return _described(configs[name], configs, places)


def _outer(configs: Mapping[str, ModelConfig]) -> list[str]:
    """Return who is no part of another; a part of a release that is being replaced belongs to nobody any more."""
    ensembles = [name for name, config in configs.items() if config.platform == "ensemble"]
    inner = {part for name in configs for part in _parts(name, configs)}
    for one in ensembles:
        inner |= {name for name in configs if name.startswith((f"{one}.", f"{one}_modalities"))}
    return sorted(set(configs) - inner)


def _parts(name: str, configs: Mapping[str, ModelConfig]) -> set[str]:
    """Return all that a model asks, directly or not, itself left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        config = configs.get(waiting.pop())
        if config is None:
            continue
        asked = {step.model_name for step in config.ensemble_scheduling.step}
        branches = _parameter(config, "mmdeploy.options").get("inputs", {})
        for branch in branches.values() if isinstance(branches, dict) else ():
            if isinstance(branch, dict):
                asked |= {one["model"] for one in (branch, branch.get("steps")) if isinstance(one, dict)}
        waiting += asked - found
        found |= asked
    return found - {name}


def _described(config: ModelConfig, configs: Mapping[str, ModelConfig], places: Mapping[str, Path]) -> Model:
    steps = [*_steps(config.name, configs)]
    folder = places.get(config.name)
    scored = {} if folder is None else _scored(folder)
    produced = {step.model_name: dict(step.output_map) for step in config.ensemble_scheduling.step}
    best = tuple(_best(config, steps))
    outputs = {tensor.name: _output(tensor, steps, best, scored.get(tensor.name)) for tensor in config.output}
    named = _class_names(configs, produced, steps, places)
    outputs = {
        name: Output(one.spec, one.meaning, named.get(name, ())) if _fits(one, named.get(name, ())) else one
        for name, one in outputs.items()
    }
    return Model(
        name=config.name,
        inputs=_inputs(config, configs, steps),
        outputs=outputs,
        max_batch_size=int(config.max_batch_size),
        best=best,
        release=None if folder is None or folder.parent.name != config.name else folder.name,
        stream=STREAM_PARAMETER in config.parameters,
    )


@dataclass(frozen=True)
class _Step:
    """What a release says of one of its steps."""

    name: str
    method: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def _steps(ensemble: str, configs: Mapping[str, ModelConfig]) -> Iterator[_Step]:
    for name in sorted(_parts(ensemble, configs) & set(configs)):
        told = _parameter(configs[name], "mmdeploy.options")
        if isinstance(told.get("method"), str):
            yield _Step(name, told["method"], told.get("options", {}), told["inputs"], told["outputs"])


def _parameter(config: ModelConfig, key: str) -> dict[str, Any]:
    if key not in config.parameters:
        return {}
    try:
        told = json.loads(config.parameters[key].string_value)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _spec(tensor: Any) -> TensorSpec:
    from tritonclient.grpc import model_config_pb2

    dtype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(tensor.name, BYTES if dtype == "STRING" else dtype, tuple(map(int, tensor.dims)))


def _inputs(config: ModelConfig, configs: Mapping[str, ModelConfig], steps: Sequence[_Step]) -> dict[str, Input]:
    kinds: dict[str, Kind] = {}
    for step in steps:
        if step.method in _KIND_OF_METHOD:
            kinds |= dict.fromkeys(step.inputs.values(), _KIND_OF_METHOD[step.method])
    spans: dict[str, tuple[float, float]] = {}
    for name in {config.name, *_parts(config.name, configs)} & set(configs):
        for own, rule in _parameter(configs[name], "mmdeploy.inputs").items():
            if "range" in rule:
                low, high = rule["range"]
                spans[rule.get("tensor", own)] = (float(low), float(high))
    names = {tensor.name for tensor in config.input}
    markers = {f"{name}_present" for name in names} & names
    found = {}
    for tensor in config.input:
        spec, marker = _spec(tensor), f"{tensor.name}_present"
        if tensor.name in markers and spec.dtype == "BOOL" and tensor.optional:
            continue
        kind = kinds.get(tensor.name, "bytes") if spec.dtype == BYTES else "tensor"
        found[tensor.name] = Input(
            spec, kind, bool(tensor.optional), marker if marker in markers else None, spans.get(tensor.name)
        )
    return found


def _best(config: ModelConfig, steps: Sequence[_Step]) -> Iterator[Best]:
    given = {tensor.name for tensor in config.output}
    shares = {tensor for step in steps if step.method == "softmax" for tensor in step.outputs.values()}
    for step in steps:
        if step.method in ("top_k", "nearest"):
            labels, ids, scores = (
                tensor if (tensor := step.outputs.get(own)) in given else None for own in ("labels", "ids", "scores")
            )
            if labels or ids:
                is_share = step.method == "top_k" and step.inputs.get("scores") in shares
                yield Best(labels, ids, scores, is_share)


def _output(tensor: Any, steps: Sequence[_Step], best: Sequence[Best], known: str | None) -> Output:
    spec = _spec(tensor)
    meaning: Meaning = "strings" if spec.dtype == BYTES else "values"
    classes = len(spec.shape) == 1 and spec.shape[0] > 1 and spec.dtype in ("FP32", "FP16", "FP64")
    for one in best:
        if spec.name in (one.labels, one.ids, one.scores):
            meaning = {one.labels: "labels", one.ids: "class_ids", one.scores: "top_scores"}[spec.name]  # type: ignore[assignment]
            return Output(spec, meaning)
    if known in ("logits", "probabilities") and classes:
        return Output(spec, "logits" if known == "logits" else "probabilities")
    if classes and any(step.method == "softmax" and spec.name in step.outputs.values() for step in steps):
        return Output(spec, "probabilities")
    ranked = any(step.method in ("softmax", "top_k") and spec.name in step.inputs.values() for step in steps)
    if classes and (ranked or any(part in spec.name.lower() for part in _NAMES_OF_SCORES)):
        return Output(spec, "probabilities" if "prob" in spec.name.lower() else "logits")
    return Output(spec, meaning)


def _scored(folder: Path) -> dict[str, str]:
    """Return what a release says its outputs' scores are: logits or probabilities."""
    path = folder / CONFIDENCE
    if not path.is_file():
        return {}
    try:
        outputs = json.loads(path.read_text(encoding="utf-8"))["outputs"]
        return {str(name): str(one["from"]) for name, one in outputs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return {}


def _class_names(
    configs: Mapping[str, ModelConfig],
    produced: Mapping[str, Mapping[str, str]],
    steps: Sequence[_Step],
    places: Mapping[str, Path],
) -> dict[str, tuple[str, ...]]:
    """Return names of classes by ensemble tensor: of label files beside models, and of those that steps read."""
    found: dict[str, tuple[str, ...]] = {}
    for model, outputs in produced.items():
        config, place = configs.get(model), places.get(model)
        for tensor in config.output if config is not None and place is not None else ():
            if tensor.label_filename and tensor.name in outputs:
                assert place is not None
                found[outputs[tensor.name]] = _lines(place / model / tensor.label_filename)
    for step in steps:
        file, place = step.options.get("labels"), places.get(step.name)
        if step.method == "top_k" and isinstance(file, str) and place is not None:
            for path in sorted(place.glob(f"{step.name}/[0-9]*/{file}")):
                found[step.inputs["scores"]] = _lines(path)
    for step in steps:  # classes keep their places when scores become shares
        if step.method == "softmax":
            ends = (step.inputs["scores"], step.outputs["probabilities"])
            for one, other in (ends, ends[::-1]):
                if found.get(one) and other not in found:
                    found[other] = found[one]
    return found


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return ()
    return tuple(lines[:_MOST_LABELS])


def _fits(output: Output, labels: Sequence[str]) -> bool:
    return bool(labels) and output.spec.shape in ((len(labels),), (-1,))

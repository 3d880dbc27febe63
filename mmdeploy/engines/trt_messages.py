"""TensorRT's messages: collected while it works, and said again in a recipe's words when it refuses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.errors import EngineError
from mmdeploy.engines.trt_graph import node_label

#: Without a driver every error is followed by this one, which has nothing to do with it.
_NOISE = re.compile(r"cudaError 35|Unable to determine GPU memory usage|logger passed into create")
_KEPT_MESSAGES = 200


@dataclass
class Messages:
    """What TensorRT said, each message once."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, severity: str, message: str) -> None:
        """Keep a warning or an error; drop repetition and what only says that there is no driver."""
        kept = {"WARNING": self.warnings}.get(severity, self.errors)
        text = "\n".join(line for line in message.splitlines() if not _NOISE.search(line)).strip()
        if text and text not in kept and len(kept) < _KEPT_MESSAGES:
            kept.append(text)


_lock = threading.Lock()
_sinks: list[Messages] = []
_loggers: dict[str, Any] = {}


@contextmanager
def collecting(trt: Any) -> Iterator[tuple[Any, Messages]]:
    """Yield TensorRT's logger and the messages that reach it meanwhile; one at a time in a process.

    TensorRT keeps the first logger of a process and ignores any other, so there is one, whose messages go to
    whoever collects.
    """
    messages = Messages()
    with _lock:
        logger = _loggers.setdefault(trt.__name__, None) or _new_logger(trt)
        _loggers[trt.__name__] = logger
        _sinks.append(messages)
        try:
            yield logger, messages
        finally:
            _sinks.remove(messages)


def _new_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                for sink in tuple(_sinks):
                    sink.add(severity.name, msg)

    return Logger()


@dataclass(frozen=True)
class _Translation:
    pattern: re.Pattern[str]
    meaning: str
    hint: str


def _translation(pattern: str, meaning: str, hint: str) -> _Translation:
    return _Translation(re.compile(pattern, re.IGNORECASE | re.DOTALL), meaning, hint)


_QUANTIZE_HINT = (
    "quantize with the encoding that TensorRT wants (symmetric INT8, zero point 0): build the graph"
    " anew for this target"
)
_TRANSLATIONS = (
    _translation(
        r"non-?zero zero ?point|shiftIsAllZeros|asymmetric quantization",
        "its zero point is not 0 or its activations are UINT8; TensorRT takes symmetric INT8 only",
        _QUANTIZE_HINT,
    ),
    _translation(
        r"DynamicQuantizeLinear|MatMulInteger|ConvInteger|QLinear",
        "this is dynamic or integer-operator quantization; TensorRT takes Q/DQ pairs around float operators",
        "use quantize.method: static (or qat)",
    ),
    _translation(
        r"type UInt8|UINT8",
        "it works on UINT8, and TensorRT has no UINT8 operators: a UINT8 input must be cast before"
        " anything is computed from it",
        "cast the input to float first thing in the model's forward, such as pixels.float()",
    ),
    _translation(
        r"Plugin not found|checkFallbackPluginImporter|no importer registered",
        "TensorRT does not know this operator, and no plugin of that name is loaded",
        "write it with standard operators, or use engine.method: onnxruntime for this component",
    ),
    _translation(
        r"Unsupported data type|convertDtype",
        "it uses a data type that TensorRT does not have",
        "use FP32, FP16, INT8, INT32, INT64 or BOOL inside the model",
    ),
    _translation(
        r"broadcast dimensions must be conformable|Shape Error|dimensions must be equal|dimension mismatch",
        "shapes do not fit together",
        "check the model with other batch sizes and, where sizes vary, engine.optimization_profile.shapes",
    ),
    _translation(
        r"must have (the same|identical) type|has type .* but must have type|strongly typed|type mismatch",
        "its inputs differ in type; strongly typed networks cast nothing by themselves",
        "with engine.precision: fp16, add the operator to engine.keep_fp32 or cast in the model",
    ),
    _translation(
        r"optimization profile|missing dimensions in profile|profile \d+",
        "the optimization profile does not fit the graph",
        "check engine.optimization_profile against the inputs of the component",
    ),
    _translation(
        r"out ?of ?memory|insufficient memory|requested size was|memory allocation|bad_alloc",
        "memory ran out while TensorRT tried kernels",
        "lower engine.workspace_bytes or optimization_profile.max_batch, or free memory",
    ),
    _translation(
        r"could not find any implementation|no implementation|no tactic|Error Code 10",
        "no kernel fits these types and shapes on the target",
        "use engine.precision: fp32 for this component, exclude the node from quantization, or give the"
        " kernels more engine.workspace_bytes",
    ),
)
_UNSUPPORTED = _translation(
    r"UNSUPPORTED_NODE",
    "TensorRT does not support this operator, or not with these attributes and types",
    "write it with other operators, or use engine.method: onnxruntime for this component",
)
_UNKNOWN_HINT = "TensorRT's words are above; if they do not help, try engine.method: onnxruntime for this component"


def parser_error(parser: Any, messages: Messages, *, model: Any, component: str) -> EngineError:
    """Say in a recipe's words why the parser refused a graph, one line a node."""
    lines, hints = [], []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        description = Messages()
        description.add("ERROR", error.desc())
        said = description.errors[0] if description.errors else ""
        operator = str(error.node_operator())
        code = getattr(error.code(), "name", str(error.code()))
        found = _find(f"{operator} {said}") or (_UNSUPPORTED if "UNSUPPORTED" in code else None)
        label = node_label(model, error.node(), str(error.node_name()), operator)
        lines.append(f"{label}: {found.meaning}{_said(said)}" if found else f"{label}: {said}")
        hints.append(found.hint if found else _UNKNOWN_HINT)
    if not lines:
        return builder_error(messages, component=component)
    more = "" if len(lines) == 1 else f" ({len(lines)} operators)"
    return EngineError(
        f"{component}: TensorRT cannot read the graph{more}\n" + "\n".join(f"    {line}" for line in lines),
        hint="; ".join(dict.fromkeys(hints)),
    )


def builder_error(messages: Messages, *, component: str) -> EngineError:
    """Say in a recipe's words why the builder gave no engine."""
    said = "\n".join(messages.errors) or "it gave no reason"
    found = _find(said)
    meaning = f"{found.meaning}\n" if found else ""
    return EngineError(
        f"{component}: TensorRT could not build the engine: {meaning}{_shortened(messages.errors) or said}",
        hint=found.hint if found else _UNKNOWN_HINT,
    )


def _said(text: str, limit: int = 200) -> str:
    """Return TensorRT's own words in brief, so that a reader can search for them; nothing where it has none."""
    lines = [line for line in text.splitlines() if line.strip() not in ("", "false")]
    telling = next((line for line in lines if not line.startswith("Invalid Node")), "")
    return f" (TensorRT: {telling[:limit]})" if telling else ""


def _find(text: str) -> _Translation | None:
    return next((entry for entry in _TRANSLATIONS if entry.pattern.search(text)), None)


def _shortened(errors: Sequence[str], limit: int = 3) -> str:
    return "\n".join(f"    TensorRT: {error.splitlines()[0]}" for error in errors[-limit:])

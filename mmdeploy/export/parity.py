"""An exported graph against the PyTorch module that it came from, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ExportError
from mmdeploy.model.torch_model import as_numpy, call_module

if TYPE_CHECKING:
    from torch import nn

    from mmdeploy.core.contracts import Array


@dataclass(frozen=True)
class Pair:
    """A module and its graph.

    Attributes:
        component: Name of the component, for messages.
        module: The PyTorch module, in eval mode.
        session: ONNX Runtime session of the graph.
        outputs: Names of the outputs.
    """

    component: str
    module: nn.Module
    session: Any
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """How alike the answers are.

    Attributes:
        figures: ``max_abs_error``, the largest over all outputs, and ``cosine``, the smallest over all outputs.
        shapes: Of each output, the batch first.
    """

    figures: dict[str, float]
    shapes: Mapping[str, tuple[int, ...]]


def compare(pair: Pair, feed: Mapping[str, Array], *, atol: float, rtol: float) -> Compared:
    """Run both on one batch.

    Args:
        pair: What to compare.
        feed: Inputs by name, batch on axis 0.
        atol: Absolute difference allowed.
        rtol: Difference allowed relative to PyTorch's answer.

    Raises:
        ModelError: When the module fails at this batch size.
        ExportError: When the graph fails, or an answer differs by more than ``atol + rtol * |reference|``.
    """
    import numpy as np
    import torch

    batch = next(iter(feed.values())).shape[0]
    with torch.inference_mode():
        given = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
        named = call_module(pair.module, given, pair.outputs, name=pair.component)
    try:
        answers = pair.session.run(list(pair.outputs), dict(feed))
    except Exception as cause:
        raise ExportError(
            f"{pair.component}: ONNX Runtime cannot run the exported graph at batch {batch}: "
            f"{' '.join(str(cause).split())}"
        ) from cause
    worst, cosine = 0.0, 1.0
    for name, answer in zip(pair.outputs, answers, strict=True):
        where = f"{pair.component}: output {name!r} at batch {batch}"
        error, likeness = _differ(as_numpy(named[name], pair.component, name), answer, where, atol=atol, rtol=rtol)
        worst, cosine = max(worst, error), min(cosine, likeness)
    shapes = {name: tuple(answer.shape) for name, answer in zip(pair.outputs, answers, strict=True)}
    return Compared({"max_abs_error": worst, "cosine": cosine}, shapes)


def _differ(reference: Array, answer: Array, where: str, *, atol: float, rtol: float) -> tuple[float, float]:
    import numpy as np

    if reference.shape != answer.shape:
        raise ExportError(f"{where}: the graph gives {list(answer.shape)}, PyTorch {list(reference.shape)}")
    expected, got = reference.astype(np.float64), answer.astype(np.float64)
    if not np.isfinite(expected).all():
        raise ExportError(f"{where}: PyTorch itself answers NaN or Inf on example inputs")
    error = np.abs(got - expected)
    largest = float(error.max(initial=0.0))
    if not (error <= atol + rtol * np.abs(expected)).all():
        raise ExportError(
            f"{where}: the graph differs from PyTorch by up to {largest:.3g}, "
            f"allowed is {atol:g} + {rtol:g} x |reference|",
            hint="a module that is random, keeps state or is not in eval mode answers differently each time; "
            "else raise export.atol or export.rtol knowingly",
        )
    norms = float(np.linalg.norm(expected) * np.linalg.norm(got))
    return largest, float(np.vdot(expected, got)) / norms if norms else 1.0

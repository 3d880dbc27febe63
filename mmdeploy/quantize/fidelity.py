"""The quantized graph against the float graph on calibration batches: it runs, is finite, and how like it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.sessions import open_session
from mmdeploy.quantize.ranges import Feeds

#: Cosine between optimized and plain execution below which the optimizer has changed the answers.
_SAME_COSINE = 0.99
_PLAIN = "-1"  # Triton's name for "no graph optimization"


@dataclass(frozen=True)
class Likeness:
    """How like a quantized graph is to the float graph.

    Attributes:
        sqnr_db: Signal-to-quantization-noise ratio by output; None without noise or signal.
        cosine: By output.
        optimizer_cosine: Smallest cosine between the quantized graph with and without ONNX Runtime's optimizations.
    """

    sqnr_db: dict[str, float | None]
    cosine: dict[str, float]
    optimizer_cosine: float


def first(feeds: Feeds, count: int) -> list[dict[str, Array]]:
    """Return the first batches."""
    return list(itertools.islice(feeds(), count))


def compare(float_graph: Path, quantized: Path, feeds: Iterable[Mapping[str, Array]], *, threads: int) -> Likeness:
    """Run both graphs.

    Raises:
        QuantizeError: When the graph does not load or run, is not finite, or is changed by the optimizer.
    """
    import numpy as np

    batches = list(feeds)
    parameters = {"intra_op_thread_count": str(threads)}
    reference = _answers(float_graph, batches, parameters, "0")
    answers = _answers(quantized, batches, parameters, "0")
    plain = _answers(quantized, batches[:1], parameters, _PLAIN)
    for name, array in answers.items():
        if not np.isfinite(array).all():
            raise QuantizeError(f"the quantized graph answers NaN or Inf in output {name!r}")
    optimized = agreement({name: answers[name][: vector.size] for name, vector in plain.items()}, plain)
    return Likeness(
        sqnr_db={name: sqnr_db(reference[name], answers[name]) for name in answers},
        cosine={name: cosine(reference[name], answers[name]) for name in answers},
        optimizer_cosine=optimized,
    )


def agreement(optimized: Mapping[str, Array], plain: Mapping[str, Array]) -> float:
    """Return the smallest cosine, over the outputs, between ONNX Runtime's optimized and its plain run.

    Raises:
        QuantizeError: When it is so small that the optimizer has changed the answers.
    """
    smallest = min(cosine(optimized[name], vector) for name, vector in plain.items())
    if smallest < _SAME_COSINE:
        raise QuantizeError(
            f"ONNX Runtime's optimizer changes the answers of the quantized graph (cosine {smallest:.4f})",
            hint="leave attention's products in float (quantize_attention: false), or use symmetric ranges",
        )
    return smallest


def cosine(reference: Array, answer: Array) -> float:
    """Return the cosine of two arrays taken as one vector each; 1 when both are zero."""
    import numpy as np

    a, b = reference.astype(np.float64).ravel(), answer.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not norms:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / norms


def sqnr_db(reference: Array, answer: Array) -> float | None:
    """Return the signal-to-quantization-noise ratio in dB; None when there is no noise or no signal."""
    import numpy as np

    a, b = reference.astype(np.float64), answer.astype(np.float64)
    signal, noise = float(np.square(a).sum()), float(np.square(a - b).sum())
    return 10.0 * float(np.log10(signal / noise)) if signal and noise else None


def _answers(
    path: Path, batches: list[Mapping[str, Array]], parameters: Mapping[str, str], level: str
) -> dict[str, Array]:
    """Return every output, all batches flattened into one vector."""
    import numpy as np

    try:
        session = open_session(path, parameters, graph_level=level)
        names = [output.name for output in session.get_outputs()]
        rows = [session.run(names, dict(batch)) for batch in batches]
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime cannot run {path.name}: {' '.join(str(cause).split())}") from cause
    return {name: np.concatenate([row[index].ravel() for row in rows]) for index, name in enumerate(names)}

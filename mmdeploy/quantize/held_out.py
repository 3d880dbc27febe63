"""What a graph answers on calibration samples that nothing was fitted to: what a choice between graphs is judged by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.agreement import sqnr_db
from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.sessions import open_session
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.quantize import graphs
from mmdeploy.quantize.ranges import Feeds

#: Noise where there is none, in dB: more than FP32 resolves.
_EXACT_DB = 120.0


class HeldOut:
    """Batches that graphs are compared on, with what the float graph answers to them."""

    def __init__(self, float_graph: Path, batches: Sequence[Mapping[str, Array]], *, threads: int) -> None:
        """Run the float graph.

        Raises:
            QuantizeError: When it does not run.
        """
        self._batches, self._parameters = batches, {"intra_op_thread_count": str(threads)}
        self._wanted = self._answers(float_graph)

    def sqnr_db(self, quantized: Any) -> float:
        """Return the signal-to-quantization-noise ratio of a graph's answers in dB, the mean over its outputs.

        Raises:
            QuantizeError: When it does not run.
        """
        import numpy as np

        with temporary_folder("held-out") as folder:
            path = folder / "model.onnx"
            graphs.save(quantized, path)
            given = self._answers(path)
        found = []
        for name, wanted in self._wanted.items():
            if not np.isfinite(given[name]).all():
                return -_EXACT_DB
            noise = sqnr_db(wanted, given[name])
            found.append(noise if noise is not None else _EXACT_DB if (wanted == given[name]).all() else 0.0)
        return float(np.mean(found))

    def _answers(self, path: Path) -> dict[str, Array]:
        import numpy as np

        try:
            session = open_session(path, self._parameters)
            names = [output.name for output in session.get_outputs()]
            rows = [session.run(names, dict(batch)) for batch in self._batches]
        except Exception as cause:
            raise QuantizeError(f"ONNX Runtime cannot run a graph: {' '.join(str(cause).split())}") from cause
        return {name: np.concatenate([row[index].ravel() for row in rows]) for index, name in enumerate(names)}


def judge(float_graph: Path, batches: Sequence[Mapping[str, Array]], *, threads: int) -> Callable[[Any], float]:
    """Return what gives the SQNR of graphs on batches; the float graph runs when the first is asked for."""
    held: list[HeldOut] = []

    def found(quantized: Any) -> float:
        if not held:
            held.append(HeldOut(float_graph, batches, threads=threads))
        return held[0].sqnr_db(quantized)

    return found


def split(feeds: Feeds, most: int) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Split the first samples, at most so many, into those to fit to and those held out, turn and turn about."""
    parts: tuple[list[dict[str, Array]], list[dict[str, Array]]] = ([], [])
    seen = 0
    for feed in feeds():
        size = min(most - seen, len(next(iter(feed.values()))))
        for side, part in enumerate(parts):
            rows = slice((side - seen) % 2, size, 2)
            if len(range(size)[rows]):
                part.append({name: array[rows] for name, array in feed.items()})
        seen += size
        if seen >= most:
            break
    return parts


def count(batches: Sequence[Mapping[str, Array]]) -> int:
    """Return the number of samples in batches."""
    return sum(len(next(iter(batch.values()))) for batch in itertools.chain(batches))

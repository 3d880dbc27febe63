"""What a graph answers on calibration samples that nothing was fitted to: what a choice between graphs is judged by."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
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
    """Batches that graphs are compared on, with what the float graph answers to them, and what others answered."""

    def __init__(
        self,
        float_graph: Path,
        batches: Sequence[Mapping[str, Array]],
        *,
        threads: int,
        wanted: Sequence[Mapping[str, Array]] = (),
    ) -> None:
        """Take the float graph, which runs when its answers are asked for and are not known."""
        self._float_graph, self._known = float_graph, wanted
        self.batches, self.parameters = batches, {"intra_op_thread_count": str(threads)}
        self._answered: dict[int, tuple[Any, list[dict[str, Array]]]] = {}

    @functools.cached_property
    def wanted(self) -> Sequence[Mapping[str, Array]]:
        """What the float graph answers to each batch.

        Raises:
            QuantizeError: When it does not run.
        """
        return self._known or answers(self._float_graph, self.batches, self.parameters)

    def sqnr_db(self, quantized: Any) -> float:
        """Return the signal-to-quantization-noise ratio of a graph's answers in dB, the mean over its outputs.

        Raises:
            QuantizeError: When it does not run.
        """
        return self._sqnr_db(self.answered(quantized) or self._answers(quantized))

    def judge(self, quantized: Any) -> float:
        """Return the same, and remember what the graph answered."""
        given = self.answered(quantized) or self._answers(quantized)
        self.remember(quantized, given)
        return self._sqnr_db(given)

    def _sqnr_db(self, given: Sequence[Mapping[str, Array]]) -> float:
        import numpy as np

        reference, answered = joined(self.wanted), joined(given)
        found = []
        for name, wanted in reference.items():
            if not np.isfinite(answered[name]).all():
                return -_EXACT_DB
            noise = sqnr_db(wanted, answered[name])
            found.append(noise if noise is not None else _EXACT_DB if (wanted == answered[name]).all() else 0.0)
        return float(np.mean(found))

    def asked(self, path: Path, model: Any = None) -> list[dict[str, Array]]:
        """Return what a graph answers to each batch; where its model is given too, it is asked once.

        Raises:
            QuantizeError: When it does not run.
        """
        given = (None if model is None else self.answered(model)) or answers(path, self.batches, self.parameters)
        if model is not None:
            self.remember(model, given)
        return given

    def answered(self, quantized: Any) -> list[dict[str, Array]] | None:
        """Return what a graph answered to each batch; None where it has not been asked."""
        _, given = self._answered.get(id(quantized), (None, None))
        return given

    def remember(self, quantized: Any, given: list[dict[str, Array]]) -> None:
        """Keep what a graph answered, so that it need not run again; the graph must not be changed from here on."""
        self._answered[id(quantized)] = (quantized, given)

    def _answers(self, quantized: Any) -> list[dict[str, Array]]:
        with temporary_folder("held-out") as folder:
            path = folder / "model.onnx"
            graphs.save(quantized, path)
            return answers(path, self.batches, self.parameters)


def answers(
    path: Path, batches: Sequence[Mapping[str, Array]], parameters: Mapping[str, str], *, level: str = "0"
) -> list[dict[str, Array]]:
    """Return every output of a graph for each batch.

    Raises:
        QuantizeError: When it does not run.
    """
    try:
        session = open_session(path, parameters, graph_level=level)
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, dict(batch)), strict=True)) for batch in batches]
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime cannot run {path.name}: {' '.join(str(cause).split())}") from cause


def joined(batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return every output, all batches flattened into one vector."""
    import numpy as np

    return {name: np.concatenate([batch[name].ravel() for batch in batches]) for name in batches[0]}


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


def compared(
    feeds: Feeds, most: int, samples: int, *, share_out: bool
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return the batches that a graph is compared on, and those to fit weights to where none are beyond.

    What weights are fitted to flatters them: where the samples end with the batches that are compared, both get half of
    them. A single sample is both.

    Args:
        feeds: Gives the batches.
        most: Batches that are compared.
        samples: The most samples.
        share_out: Whether weights may be fitted to samples.
    """
    batches = list(itertools.islice(feeds(), most + 1))
    if not share_out or len(batches) > most:
        return batches[:most], []
    fitted, judged = split(feeds, samples)
    return judged or fitted, fitted


def count(batches: Sequence[Mapping[str, Array]]) -> int:
    """Return the number of samples in batches."""
    return sum(len(next(iter(batch.values()))) for batch in itertools.chain(batches))

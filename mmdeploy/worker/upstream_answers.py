"""What lies upstream of a component answered to examples: asked once, by the export, and kept beside its graph.

Later steps on the component read it, and need not build the PyTorch model to be given examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmdeploy.core.artifact import Array

FILENAME = "upstream.npz"
#: What is larger is asked again: of a file that every build of the component keeps.
_MOST_BYTES = 64 * 2**20
_INDEX = "index"


class UpstreamAnswers:
    """Batches of what clients send, known by digests of their rows, and what they were answered."""

    def __init__(self) -> None:
        """Know none."""
        self._known: list[tuple[Mapping[str, list[str]], Mapping[str, Array]]] = []

    @classmethod
    def load(cls, path: Path) -> UpstreamAnswers:
        """Read what `save` wrote; none where there is no such file."""
        known = cls()
        if not path.is_file():
            return known
        with np.load(path, allow_pickle=False) as arrays:
            for number, (rows, names) in enumerate(json.loads(str(arrays[_INDEX]))):
                answers = {name: arrays[f"{number}.{place}"] for place, name in enumerate(names)}
                known._known.append((rows, answers))
        return known

    def save(self, path: Path) -> None:
        """Write what is known, unless it is nothing or too much."""
        total = sum(array.nbytes for _, answers in self._known for array in answers.values())
        if not self._known or total > _MOST_BYTES:
            return
        arrays = {
            f"{number}.{place}": array
            for number, (_, answers) in enumerate(self._known)
            for place, array in enumerate(answers.values())
        }
        index = json.dumps([(rows, [*answers]) for rows, answers in self._known])
        np.savez(path, **{_INDEX: np.array(index)}, **arrays)

    def add(self, sent: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Keep what a batch was answered, both by ensemble tensor, a row a sample."""
        self._known.append(({name: _digests(array) for name, array in sent.items()}, dict(answers)))

    def find(self, sent: Mapping[str, Array]) -> dict[str, Array] | None:
        """Return what a batch was answered, or the beginning of a larger one; None where it is new."""
        if not self._known:
            return None
        rows = {name: _digests(array) for name, array in sent.items()}
        count = len(next(iter(sent.values())))
        for known, answers in self._known:
            if known.keys() == rows.keys() and all(known[name][:count] == rows[name] for name in rows):
                return {name: array[:count].copy() for name, array in answers.items()}
        return None


def _digests(batch: Array) -> list[str]:
    """Return a digest of each row, of its type and shape too."""
    kind = f"{batch.dtype.str}{batch.shape[1:]}".encode()
    return [hashlib.sha256(kind + np.ascontiguousarray(row).tobytes()).hexdigest() for row in batch]

"""What a static quantization found and its metadata do not say, in a file beside its graph.

With it the same numbers are written in another encoding: ranges are found once, whatever engines are to be tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmdeploy.core.contracts import Array
from mmdeploy.quantize.gptq import Rounded
from mmdeploy.quantize.mse import Histogram

FILENAME = "found.npz"
_PARTS = ("maxima", "counts", "extremes", "wanted", "codes", "scales")
#: Answers beyond it are computed again.
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        maxima: Largest magnitude of each channel of the tensors that were equalized [channels].
        histograms: By tensor, where ranges depend on the encoding.
        wanted: What the float graph answers to each batch that graphs are compared on; none where that is a lot.
        rounded: Weights that are not rounded to the nearest code.
    """

    maxima: Mapping[str, Array] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    wanted: Sequence[Mapping[str, Array]] = ()
    rounded: Rounded = field(default_factory=Rounded)

    def save(self, folder: Path) -> None:
        """Write it into the folder of a step."""
        import numpy as np

        small = sum(array.nbytes for batch in self.wanted for array in batch.values()) <= _MOST_BYTES
        np.savez(
            folder / FILENAME,
            **{f"maxima/{name}": array for name, array in self.maxima.items()},
            **{f"counts/{name}": one.counts for name, one in self.histograms.items()},
            **{f"extremes/{name}": np.array([one.low, one.high]) for name, one in self.histograms.items()},
            **{f"codes/{name}": array for name, array in self.rounded.codes.items()},
            **{f"scales/{name}": array for name, array in self.rounded.scales.items()},
            **{
                f"wanted/{index}/{name}": array
                for index, batch in enumerate(self.wanted if small else ())
                for name, array in batch.items()
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Found:
        """Read what `save` wrote."""
        import numpy as np

        with np.load(folder / FILENAME) as file:
            parts: dict[str, dict[str, Array]] = {part: {} for part in _PARTS}
            for key in file.files:
                part, _, name = key.partition("/")
                parts[part][name] = file[key]
        batches: dict[int, dict[str, Array]] = {}
        for key, array in parts["wanted"].items():
            index, _, name = key.partition("/")
            batches.setdefault(int(index), {})[name] = array
        histograms = {
            name: Histogram(counts, *map(float, parts["extremes"][name])) for name, counts in parts["counts"].items()
        }
        answers = [batches[index] for index in sorted(batches)]
        return cls(parts["maxima"], histograms, answers, Rounded(parts["codes"], parts["scales"]))

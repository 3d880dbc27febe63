"""The range whose distribution survives 8 bits best, by Kullback-Leibler divergence.

The method is Migacz, "8-bit Inference with TensorRT" (GTC 2017), in the form of ONNX Runtime's entropy
calibrator, whose results it gives to the bit. ONNX Runtime loops over histogram bins in Python and takes about
half a second a tensor at 2048 bins; here the merging is done on whole arrays. (At ONNX Runtime's own default of
128 bins for 128 levels there is one candidate only: the maximum.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


#: Levels that a candidate is merged into: one half of the INT8 codes, for the histogram is of both signs.
LEVELS = 128


def limits(counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return the limits such that clipping to them loses the least information.

    They are symmetric but for one bin, which ONNX Runtime adds on the right.

    Args:
        counts: Histogram over [-limit, limit], an even number of bins [bins].
        edges: Edges of the bins [bins + 1].
    """
    import numpy as np

    middle = len(counts) // 2
    total = np.concatenate([[0], np.cumsum(counts)])
    best, found = np.inf, (float(edges[0]), float(edges[-1]))
    for half in range(LEVELS // 2, middle + 1):
        start, stop = middle - half, min(middle + half + 1, len(counts))
        outside = (int(total[start]), int(total[-1] - total[stop]))
        divergence = _divergence(counts[start:stop], outside)
        if divergence < best:
            best, found = divergence, (float(edges[start]), float(edges[stop]))
    return found


def _divergence(inside: npt.NDArray[np.int64], outside: tuple[int, int]) -> float:
    """Return the divergence of the quantized from the clipped distribution; infinite when it has none."""
    import numpy as np
    from onnxruntime.quantization.calibrate import entropy
    from onnxruntime.quantization.quant_utils import smooth_distribution

    clipped = inside.copy()
    clipped[0] += outside[0]
    clipped[-1] += outside[1]
    width = inside.size // LEVELS
    merged = inside[: LEVELS * width].reshape(LEVELS, width).sum(axis=1)
    merged[-1] += inside[LEVELS * width :].sum()
    occupied = (clipped[: LEVELS * width].reshape(LEVELS, width) != 0).sum(axis=1)
    spread = np.zeros(inside.size, dtype=np.int64)
    level = np.where(occupied, merged / np.maximum(occupied, 1), 0).astype(np.int64)
    spread[: LEVELS * width] = np.repeat(level, width)
    smooth_clipped, smooth_spread = smooth_distribution(clipped), smooth_distribution(spread)
    if smooth_clipped is None or smooth_spread is None:
        return float("inf")
    return float(entropy(smooth_clipped, smooth_spread))

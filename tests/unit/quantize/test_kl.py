"""The fast search for the entropy threshold gives ONNX Runtime's own result."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector

from mmdeploy.quantize import kl


def by_onnxruntime(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    collector = HistogramCollector("entropy", False, len(counts), kl.LEVELS, 99.99, "same")
    limit = edges[-1]
    low, high = collector.get_entropy_threshold((counts, edges, -limit, limit, limit), kl.LEVELS)
    return float(low), float(high)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bins=st.sampled_from([128, 256, 300, 512]),
    power=st.sampled_from([1, 3]),
    shift=st.floats(-2, 2),
)
def test_limits_are_those_of_onnxruntime(seed, bins, power, shift):
    values = (np.random.default_rng(seed).standard_normal(3000) ** power + shift).astype(np.float32)
    limit = float(np.abs(values).max())
    counts, edges = np.histogram(values, bins, range=(-limit, limit))
    edges = edges.astype(np.float32)
    assert kl.limits(counts.astype(np.int64), edges) == by_onnxruntime(counts.astype(np.int64), edges)


def test_one_far_value_is_cut_off():
    values = np.append(np.random.default_rng(0).standard_normal(100_000), 100.0).astype(np.float32)
    counts, edges = np.histogram(values, 2048, range=(-100, 100))
    low, high = kl.limits(counts.astype(np.int64), edges.astype(np.float32))
    assert 2 < -low < 15 and 2 < high < 15

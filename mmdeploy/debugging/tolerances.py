"""What a tensor may differ by, form by form, where the user says nothing.

* The exported graph computes what PyTorch computes, in another order: 60 dB, three digits.
* A Q/DQ graph is meant to differ. Eight bits that fit their tensor give 35 to 45 dB, and long tails 20 to 25: that is
  steady noise. So each node is looked at alone, its inputs being the exact ones: below 15 dB its codes do not fit the
  values, or its arithmetic is another. All nodes together may come down to 10 dB (cosine 0.95).
* An engine computes what its graph says. Integer kernels round otherwise than the Q/DQ pairs that they stand for, so
  its noise is judged by that of the graph: at most 6 dB above it, where both together are 7 dB worse, within 20 and
  60 dB. One that computes in BF16 or FP16 what is left in floating point: 25 dB.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmdeploy.core.contracts import MethodOptions
from mmdeploy.debugging.figures import Tolerance
from mmdeploy.planning.chains import lowers_precision

EXACT_DB = 60.0
QUANTIZED_ALONE_DB = 15.0
QUANTIZED_DB = 10.0
LOW_PRECISION_DB = 25.0
_ENGINE_MARGIN_DB = 6.0
_ENGINE_LEAST_DB = 20.0


def exported(given: Tolerance | None) -> Tolerance:
    """Return the tolerance of an exported graph."""
    return given or Tolerance(EXACT_DB)


def quantized(given: Tolerance | None) -> tuple[Tolerance, Tolerance]:
    """Return the tolerances of a Q/DQ graph: of a tensor with all that lies upstream, and of its node alone."""
    return (given, given) if given else (Tolerance(QUANTIZED_DB), Tolerance(QUANTIZED_ALONE_DB))


def engine(
    given: Tolerance | None, options: MethodOptions, noise: Mapping[str, float | None]
) -> tuple[Mapping[str, Tolerance], Tolerance]:
    """Return the tolerances of an engine's tensors, and that of those that are not named.

    Args:
        given: The user's.
        options: Of the engine.
        noise: SQNR of the tensors of its graph against the exported one, in dB; empty for a graph in floating point.
    """
    if given:
        return {}, given
    most = LOW_PRECISION_DB if lowers_precision(options) else EXACT_DB
    least = min(_ENGINE_LEAST_DB, most)

    def by_noise(sqnr_db: float | None) -> Tolerance:
        return Tolerance(most if sqnr_db is None else min(most, max(least, sqnr_db - _ENGINE_MARGIN_DB)))

    return {name: by_noise(sqnr_db) for name, sqnr_db in noise.items()}, Tolerance(least if noise else most)

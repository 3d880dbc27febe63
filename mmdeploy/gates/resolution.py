"""What samples can show at all: the smallest true drop that an estimate tells from its limit."""

from __future__ import annotations

from mmdeploy.scoring.comparison import Comparison

#: Times the limit that a drop may be and pass, before it is warned of.
MUCH_MORE = 1.5


def found(
    comparison: Comparison, *, max_drop: float | None = None, max_relative_drop: float | None = None
) -> dict[str, object]:
    """Return details of a gate that decides by the estimate: ``smallest_drop``, and a ``warning`` where it is large.

    Args:
        comparison: Of the candidate with the original.
        max_drop: The limit on the drop, or None.
        max_relative_drop: The limit on it as a share of the original's score, where there is no other.
    """
    limit = max_drop
    if limit is None and max_relative_drop is not None:
        limit = max_relative_drop * abs(comparison.original.score)
    smallest = None if limit is None else comparison.smallest_drop(limit)
    if limit is None or smallest is None:
        return {}
    details: dict[str, object] = {"smallest_drop": smallest}
    if smallest > MUCH_MORE * limit:
        details["warning"] = (
            f"with these {comparison.original.units} samples a true drop of less than {smallest:.3g} may pass the "
            f"limit of {limit:.3g}: `rule: interval` lets no such drop pass, and more samples decide"
        )
    return details

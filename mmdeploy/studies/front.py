"""Which points are worth having: a Pareto front that takes measuring for what it is.

A point *beats* another if it is no worse by any estimate, and surely better in one objective: by more than their
intervals leave open. The front is what nothing beats. A point that only looks worse stays, and it is said which ones it
cannot be told apart from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdeploy.studies.objectives import Figure

Figures = Mapping[str, Figure]


def looks_better(one: Figures, other: Figures) -> bool:
    """Say whether a point dominates another by its estimates."""
    pairs = [(one[name].value, other[name].value) for name in one]
    return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def beats(one: Figures, other: Figures) -> bool:
    """Say whether a point is better than another, beyond what measuring leaves open."""
    return looks_better(one, other) and any(one[name].surely_below(other[name]) for name in one)


def alike(one: Figures, other: Figures) -> bool:
    """Say whether two points cannot be told apart in any objective."""
    return not any(one[name].unlike(other[name]) for name in one)


def front(points: Mapping[int, Figures]) -> tuple[int, ...]:
    """Return the points that nothing beats, by number."""
    return tuple(
        number
        for number, figures in sorted(points.items())
        if not any(beats(other, figures) for other in points.values())
    )


def chosen(
    points: Mapping[int, Figures], prefer: str | None = None, passed: Mapping[int, Figures] | None = None
) -> int | None:
    """Choose one point of a front.

    Args:
        points: The front.
        prefer: The objective that counts most: of those that cannot be told apart from its best, the one that is
            nearest to the ideal in the others. Without it all count alike.
        passed: What objectives are scaled over, from the best to the worst; the front where it is left out. A front of
            two ends alone would have nothing between them.

    Returns:
        Its number: nearest to the ideal; of those that cannot be told apart from it, the earliest. None of no points.
    """
    if not points:
        return None
    names, scale = list(next(iter(points.values()))), passed or points
    if prefer is not None:
        best = min((figures[prefer] for figures in points.values()), key=lambda figure: figure.value)
        points = {number: figures for number, figures in points.items() if not figures[prefer].unlike(best)}
        names = [name for name in names if name != prefer] or names
    nearest = min(sorted(points), key=lambda number: _distance(points[number], scale, names))
    return min(number for number, figures in points.items() if alike(figures, points[nearest]))


def _distance(figures: Figures, scale: Mapping[int, Figures], names: Sequence[str]) -> float:
    """Return how far a point is from the ideal, squared; objectives without a span do not count."""
    total = 0.0
    for name in names:
        values = [one[name].value for one in scale.values()]
        if (span := max(values) - min(values)) > 0:
            total += ((figures[name].value - min(values)) / span) ** 2
    return total

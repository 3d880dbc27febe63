"""A front of measured points: what noise leaves open is not sold as better."""

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.studies.front import alike, beats, chosen, front, looks_better
from mmdeploy.studies.objectives import Figure


def _exact(value: float) -> Figure:
    return Figure(value, value, value)


def _about(value: float, width: float) -> Figure:
    return Figure(value, value - width, value + width)


NUMBERS = st.integers(0, 6).map(float)
FIGURES = st.builds(_about, NUMBERS, st.sampled_from([0.0, 0.0, 0.4, 2.0]))
POINTS = st.lists(st.fixed_dictionaries({"accuracy": FIGURES, "bytes": FIGURES}), min_size=1, max_size=9).map(
    lambda points: dict(enumerate(points))
)


@given(POINTS)
def test_the_front_is_what_nothing_beats_and_holds_all_that_looks_best(points: dict[int, dict[str, Figure]]) -> None:
    found = front(points)
    assert found
    for number, figures in points.items():
        beaten = any(beats(other, figures) for other in points.values())
        assert (number in found) is not beaten
        if not any(looks_better(other, figures) for other in points.values()):
            assert number in found
    if all(figure.is_exact for figures in points.values() for figure in figures.values()):
        assert all(not looks_better(points[one], points[other]) for one in found for other in found)


@given(POINTS, st.sampled_from([None, "accuracy", "bytes"]))
def test_the_chosen_one_is_of_the_front_and_the_earliest_of_those_like_it(
    points: dict[int, dict[str, Figure]], prefer: str | None
) -> None:
    on_front = {number: points[number] for number in front(points)}
    best = chosen(on_front, prefer)
    assert best in on_front
    if prefer is not None:
        least = min((one[prefer] for one in on_front.values()), key=lambda figure: figure.value)
        assert not on_front[best][prefer].unlike(least)


def test_a_difference_within_the_noise_is_none() -> None:
    first = {"accuracy": _about(0.010, 0.005), "bytes": _exact(100)}
    second = {"accuracy": _about(0.012, 0.005), "bytes": _exact(100)}
    assert looks_better(first, second) and not beats(first, second)
    assert alike(first, second)
    assert front({0: second, 1: first}) == (0, 1)
    assert chosen({0: second, 1: first}) == 0, "the earlier: nothing says that the other is better"
    smaller = {"accuracy": _about(0.010, 0.005), "bytes": _exact(99)}
    assert front({0: second, 1: smaller}) == (1,)
    surely = {"accuracy": _about(0.001, 0.002), "bytes": _exact(100)}
    assert front({0: second, 1: surely}) == (1,)


def test_of_no_points_none_is_chosen() -> None:
    assert front({}) == () and chosen({}) is None


def test_of_two_ends_the_one_that_costs_little_of_what_there_is_to_lose_is_chosen() -> None:
    passed = {
        0: {"accuracy": _exact(0.0), "bytes": _exact(1400)},
        1: {"accuracy": _exact(0.01), "bytes": _exact(920)},
        2: {"accuracy": _exact(0.17), "bytes": _exact(800)},
    }
    assert chosen({1: passed[1], 2: passed[2]}, None, passed) == 1

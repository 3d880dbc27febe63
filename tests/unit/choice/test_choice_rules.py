"""The rules of choosing, given any measurements."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.choice import explanation, rules
from mmdeploy.choice.measure import Timings
from mmdeploy.choice.rules import Entrant, Ruling


class Latencies:
    """Comparisons from true latencies and one relative uncertainty each."""

    def __init__(self, latency: dict[str, float], doubt: dict[str, float]) -> None:
        self.latency, self.doubt = latency, doubt

    def ratio(self, label: str, reference: str) -> float:
        return self.latency[label] / self.latency[reference]

    def interval(self, label: str, reference: str) -> tuple[float, float]:
        factor = (1 + self.doubt[label]) * (1 + self.doubt[reference])
        return (self.ratio(label, reference) / factor, self.ratio(label, reference) * factor)


def measured(**latency: float) -> Latencies:
    return Latencies(latency, dict.fromkeys(latency, 0.01))


FP32 = Entrant("fp32", False, 0)
BF16 = Entrant("bf16", False, 1)
INT8 = Entrant("int8", True, 2, drop=0.002)
ODD = Entrant("odd", True, 3)


@st.composite
def contests(draw):
    count = draw(st.integers(1, 6))
    names = [f"c{index}" for index in range(count)]
    entrants = [
        Entrant(
            name,
            draw(st.booleans()),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([None, None, None, "died"])),
            draw(st.none() | st.floats(-0.1, 0.2) | st.just(math.nan)),
        )
        for name in names
    ]
    near = st.sampled_from([0.5, 0.75, 0.8, 0.9, 0.98, 1.0, 1.1])  # where the rules' limits are
    latency = {name: draw(near | st.floats(0.1, 10)) for name in names}
    doubt = {name: draw(st.sampled_from([0.0, 0.01, 0.3, math.inf])) for name in names}
    return entrants, Latencies(latency, doubt), draw(st.none() | st.floats(0, 0.1))


@given(contests())
def test_what_ships_is_alive_surely_faster_than_the_reference_or_it(contest):
    entrants, latencies, max_drop = contest
    choice = rules.choose(entrants, latencies, max_drop)
    alive = {one.label: one for one in entrants if one.failed is None}
    if choice is None:
        assert not alive
        return
    winner, reference = alive[choice.winner], alive[choice.reference]
    if winner is not reference:
        assert latencies.interval(winner.label, reference.label)[1] < 1.0
        assert latencies.latency[winner.label] < latencies.latency[reference.label]
    if any(not one.compressed for one in alive.values()):
        assert not reference.compressed


@given(contests())
def test_a_broken_budget_ships_only_where_nothing_keeps_it(contest):
    entrants, latencies, max_drop = contest
    choice = rules.choose(entrants, latencies, max_drop)
    if choice is None or max_drop is None:
        return
    winner = next(one for one in entrants if one.label == choice.winner)
    if not rules.over_budget(winner, max_drop):
        return
    alive = [one for one in entrants if one.failed is None]
    if any(not one.compressed for one in alive):
        assert winner.label == choice.reference
        assert not winner.compressed
    else:
        assert all(rules.over_budget(one, max_drop) for one in alive)
        known = [one.drop for one in alive if one.drop is not None and not math.isnan(one.drop)]
        assert not known or winner.drop == min(known)


@given(contests())
def test_of_what_is_equally_fast_the_simplest_ships(contest):
    entrants, latencies, max_drop = contest
    choice = rules.choose(entrants, latencies, max_drop)
    if choice is None:
        return
    winner = next(one for one in entrants if one.label == choice.winner)
    for one in entrants:
        could = one.failed is None and not rules.over_budget(one, max_drop)
        if could and latencies.interval(one.label, choice.reference)[1] < 1.0 and one.rank < winner.rank:
            over = latencies.ratio(one.label, choice.leader)
            assert latencies.interval(one.label, choice.leader)[0] > 1.0 or over > 1.0 + rules.NEAR


def test_the_fastest_wins():
    choice = rules.choose([FP32, BF16, INT8], measured(fp32=1.0, bf16=0.5, int8=0.3), 0.01)
    assert choice == Ruling("int8", "fp32", "int8")


def test_a_tie_goes_to_what_is_not_compressed():
    choice = rules.choose([FP32, BF16, INT8], measured(fp32=1.0, bf16=0.305, int8=0.3), 0.01)
    assert choice == Ruling("bf16", "fp32", "int8")


def test_a_tie_of_compressed_ones_goes_to_the_simpler():
    choice = rules.choose([FP32, ODD, INT8], measured(fp32=1.0, odd=0.3, int8=0.303), 0.01)
    assert choice is not None
    assert choice.winner == "int8"


def test_an_interval_that_includes_one_does_not_pay():
    choice = rules.choose([FP32, INT8], measured(fp32=1.0, int8=0.985), None)
    assert choice is not None
    assert choice.winner == "fp32"


def test_a_tie_with_the_leader_does_not_make_up_for_a_doubt_about_fp32():
    vague = Latencies({"fp32": 1.0, "int8": 0.9, "odd": 0.8}, {"fp32": 0.01, "int8": 0.2, "odd": 0.01})
    assert rules.choose([FP32, INT8, ODD], vague, None) == Ruling("odd", "fp32", "odd")


def test_over_budget_is_out_however_fast():
    costly = Entrant("int8", True, 2, drop=0.011)
    choice = rules.choose([FP32, BF16, costly], measured(fp32=1.0, bf16=0.9, int8=0.1), 0.01)
    assert choice is not None
    assert choice.winner == "bf16"
    assert rules.choose([FP32, costly], measured(fp32=1.0, int8=0.1), None).winner == "int8"


def test_where_all_are_compressed_the_budget_comes_first_and_then_speed():
    costly = Entrant("odd", True, 0, drop=0.05)
    worse = Entrant("int8", True, 2, drop=0.02)
    quick = measured(odd=0.1, int8=0.3)
    assert rules.choose([costly, INT8], quick, 0.01) == Ruling("int8", "int8", "int8")
    assert rules.choose([costly, worse], quick, 0.01) == Ruling("int8", "int8", "int8")  # what loses least


def test_a_drop_of_exactly_the_budget_keeps_it():
    assert not rules.over_budget(Entrant("a", True, 0, drop=0.1 + 0.2), 0.3)
    assert rules.over_budget(Entrant("a", True, 0, drop=math.nan), 0.3)


def test_when_the_reference_died_the_next_simplest_is_it():
    dead = Entrant("fp32", False, 0, failed="died")
    choice = rules.choose([dead, BF16, INT8], measured(bf16=1.0, int8=1.2), None)
    assert choice == Ruling("bf16", "bf16", "bf16")


def test_timing_goes_on_only_with_those_that_may_win():
    noisy = Latencies(
        {"fp32": 1.0, "bf16": 0.35, "int8": 0.3, "odd": 0.9},
        dict.fromkeys(["fp32", "odd"], 0.01) | {"bf16": 0.1, "int8": 0.1},
    )
    assert set(rules.undecided([FP32, BF16, INT8, ODD], noisy, None)) == {"bf16", "int8"}
    assert rules.undecided([FP32, BF16, INT8, ODD], measured(fp32=1.0, bf16=0.35, int8=0.3, odd=0.9), None) == []


def test_a_reference_is_timed_on_until_all_that_may_ship_are_surely_twice_as_fast():
    doubt = {"fp32": 0.0, "bf16": 0.1, "int8": 0.1}
    near = Latencies({"fp32": 1.0, "bf16": 0.48, "int8": 0.4}, doubt)  # of bf16 it is not sure
    assert rules.undecided([FP32, BF16, INT8], near, None)[0] == "fp32"
    far = Latencies({"fp32": 1.0, "bf16": 0.44, "int8": 0.4}, doubt)
    assert set(rules.undecided([FP32, BF16, INT8], far, None)) == {"bf16", "int8"}


def test_of_two_that_are_timed_on_without_the_reference_the_one_that_is_faster_then_leads():
    """What both took beside the reference says the opposite: a few early rounds."""
    early = {name: dict.fromkeys(range(20), ms) for name, ms in {"fp32": 10.0, "bf16": 3.0, "int8": 3.1}.items()}
    late = {"fp32": {}, "bf16": dict.fromkeys(range(20, 200), 3.0), "int8": dict.fromkeys(range(20, 200), 2.0)}
    timings = Timings({name: early[name] | late[name] for name in early})
    assert timings.ratio("bf16", "fp32") < timings.ratio("int8", "fp32")
    assert rules.choose([FP32, BF16, INT8], timings, None) == Ruling("int8", "fp32", "int8")


def test_as_good_as_equal_is_decided():
    assert rules.undecided([FP32, INT8], measured(fp32=1.0, int8=1.0), None) == []


def test_what_could_be_a_little_faster_but_is_not_simpler_is_decided():
    close = Latencies({"fp32": 1.0, "bf16": 0.5, "int8": 0.5}, {"fp32": 0.0, "bf16": 0.04, "int8": 0.0})
    assert rules.undecided([FP32, BF16, INT8], close, None) == []
    assert rules.choose([FP32, BF16, INT8], close, None) == Ruling("bf16", "fp32", "bf16")
    wide = Latencies({"fp32": 1.0, "bf16": 0.5, "int8": 0.5}, {"fp32": 0.0, "bf16": 0.1, "int8": 0.0})
    assert set(rules.undecided([FP32, BF16, INT8], wide, None)) == {"fp32", "bf16", "int8"}


def test_what_is_simpler_ships_only_where_it_took_hardly_longer():
    doubt = {"fp32": 0.0, "bf16": 0.04, "int8": 0.0}
    hardly = Latencies({"fp32": 1.0, "bf16": 0.405, "int8": 0.4}, doubt)
    assert rules.choose([FP32, BF16, INT8], hardly, None) == Ruling("bf16", "fp32", "int8")
    longer = Latencies({"fp32": 1.0, "bf16": 0.412, "int8": 0.4}, doubt)
    assert rules.choose([FP32, BF16, INT8], longer, None) == Ruling("int8", "fp32", "int8")


def test_a_ratio_that_is_known_well_is_decided_although_its_interval_holds_one():
    """The simpler one takes 3 % longer: no number of rounds would call that equal, and few would call it slower."""
    near = Latencies({"fp32": 1.0, "bf16": 0.412, "int8": 0.4}, {"fp32": 0.0, "bf16": 0.04, "int8": 0.0})
    assert near.interval("bf16", "int8")[0] < 1.0 < 1.0 + rules.EQUAL_SHARE < near.interval("bf16", "int8")[1]
    assert rules.undecided([FP32, BF16, INT8], near, None) == []
    vague = Latencies(near.latency, {"fp32": 0.0, "bf16": 0.06, "int8": 0.0})
    assert "bf16" in rules.undecided([FP32, BF16, INT8], vague, None)


def test_what_is_far_behind_in_every_block_leaves_at_once_but_for_the_reference():
    blocks = {"fp32": [10.0, 11.0], "bf16": [4.2, 4.4], "int8": [3.0, 3.2], "odd": [4.0, 9.0]}
    assert rules.outpaced([FP32, BF16, INT8, ODD], blocks) == ["bf16"]
    assert rules.outpaced([FP32, BF16, INT8, ODD], blocks | {"odd": [4.2, 9.0]}) == ["bf16", "odd"]
    dead = Entrant("int8", True, 2, failed="died")
    assert rules.outpaced([FP32, BF16, dead, ODD], blocks) == []
    assert rules.outpaced([FP32, INT8], {"fp32": [], "int8": []}) == []


@given(contests())
def test_what_leaves_at_once_is_neither_the_fastest_nor_the_reference(contest):
    entrants, latencies, _ = contest
    blocks = {name: [ms, ms * 1.1] for name, ms in latencies.latency.items()}
    gone = rules.outpaced(entrants, blocks)
    alive = [one.label for one in entrants if one.failed is None]
    if alive:
        assert min(alive, key=latencies.latency.__getitem__) not in gone
        assert all(latencies.latency[one] > 1.3 * min(latencies.latency[name] for name in alive) for one in gone)
        choice = rules.choose(entrants, latencies, None)
        assert choice is not None
        assert choice.reference not in gone


def test_every_loser_is_told_why():
    latencies = measured(fp32=1.0, bf16=1.2, int8=0.3, odd=0.5)
    costly = Entrant("odd", True, 3, drop=0.5)
    entrants = [FP32, BF16, INT8, costly, Entrant("dead", True, 4, failed="it died")]
    choice = rules.choose(entrants, latencies, 0.01)
    assert choice is not None
    assert {one.label: explanation.why_not(one, choice, latencies, 0.01) for one in entrants} == {
        "fp32": "slower than int8",
        "bf16": "slower than fp32",
        "int8": None,
        "odd": "loses 0.5, more than max_drop 0.01",
        "dead": "it died",
    }

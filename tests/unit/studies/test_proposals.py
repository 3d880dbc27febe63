"""A search that is interrupted goes on as if it had not been: the proposals of real samplers over a real journal."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.studies.domains import Choices, Range
from mmdeploy.studies.objectives import Figure
from mmdeploy.studies.proposals import SAMPLERS, Proposals, Sampler
from mmdeploy.studies.space import Dimension, Space
from mmdeploy.studies.study import Study, changes, locked, open_study
from mmdeploy.studies.trial import Trial, trial_of

SPACE = Space(
    (
        Dimension("quantize.calibrator", ("components.a.quantize.calibrator",), Choices(("minmax", "mse"))),
        Dimension("prune.ratio", ("components.a.prune.ratio",), Range(0.2, 0.6)),
        Dimension("quantize.samples", ("components.a.quantize.samples",), Range(8, 512, log=True, integral=True)),
    )
)
SMALL = Space((SPACE.dimensions[0], Dimension("keep", ("components.a.keep",), Choices(("always", "if_it_pays", "x")))))
IDENTITY = {"recipe name": "a", "machine": "here"}
OBJECTIVES = ("accuracy", "bytes")


@contextlib.contextmanager
def _study(folder: Path) -> Iterator[Study]:
    with locked(folder):
        yield open_study(folder, IDENTITY, OBJECTIVES, anew=False)


def _came_to(number: int, point: dict[str, str]) -> Trial:
    """Return what a build of a point would come to, by a formula: more pruning is smaller and worse."""
    ratio = float(point.get("prune.ratio", "0.3"))
    drop = ratio**2 + (0.1 if point["quantize.calibrator"] == "mse" else 0.0)
    figures = {"accuracy": Figure(drop, drop - 0.01, drop + 0.01), "bytes": Figure(1 - ratio, 1 - ratio, 1 - ratio)}
    return Trial(number, point, "failed" if ratio > 0.5 else "passed", "", figures)


def _search(folder: Path, space: Space, sampler: Sampler, builds: int, budget: int) -> list[dict[str, str]]:
    with _study(folder) as study:
        proposals = Proposals(study, space, sampler, seed=3, budget=budget)
        while study.built < builds and (proposed := proposals.next()) is not None:
            asked, point = proposed
            study.close(asked, _came_to(study.built, dict(point)))
        return [dict(one.point) for one in study.trials if one.built]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_left_goes_on_as_it_would_have(tmp_path: Path, sampler: Sampler) -> None:
    whole = _search(tmp_path / "whole", SPACE, sampler, 14, 14)
    count = 8 if sampler == "grid" else 14  # two values of each: three would be 18 builds
    assert len(whole) == count
    assert len({tuple(point.items()) for point in whole}) == count, "nothing is built twice"
    assert all(0.2 <= float(point["prune.ratio"]) <= 0.6 for point in whole)
    for builds in (5, 6, 14):
        left = _search(tmp_path / "left", SPACE, sampler, builds, 14)
    assert left == whole


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_tried_whole_and_no_more(tmp_path: Path, sampler: Sampler) -> None:
    assert len(_search(tmp_path, SMALL, sampler, 50, 50)) == 6
    assert len(_search(tmp_path, SMALL, sampler, 50, 60)) == 6


def test_samplers_that_propose_what_was_tried_come_to_every_point(tmp_path: Path) -> None:
    found = _search(tmp_path, SMALL, "tpe", 6, 5)
    assert len(found) == 6, "chance finds what the sampler does not"


def test_what_was_running_when_the_process_was_killed_is_tried_again(tmp_path: Path) -> None:
    with _study(tmp_path) as study:
        asked, first = Proposals(study, SPACE, "tpe", seed=3, budget=9).next() or (None, {})
        assert asked is not None  # and nothing is told of it: the process ends here
    with _study(tmp_path) as study:
        assert study.trials == []
        _, again = Proposals(study, SPACE, "tpe", seed=3, budget=9).next() or (None, {})
    assert again == first


def test_two_processes_do_not_share_a_study(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="another sweep is running"), locked(tmp_path):
        pass


def test_another_study_is_refused_by_name_and_set_aside_when_asked(tmp_path: Path) -> None:
    _search(tmp_path, SMALL, "tpe", 2, 9)
    other = {**IDENTITY, "--set keep": "always,never", "machine": "there"}
    with locked(tmp_path), pytest.raises(UsageError) as raised:
        open_study(tmp_path, other, OBJECTIVES, anew=False)
    assert "machine (here → there)" in raised.value.message
    assert "--set keep (nothing → always,never)" in raised.value.message
    assert "--anew" in str(raised.value.hint)
    with locked(tmp_path):
        assert open_study(tmp_path, other, OBJECTIVES, anew=True).trials == []
    assert (tmp_path / "before-1" / "journal.log").is_file()


def test_what_is_learned_of_the_code_is_no_change() -> None:
    assert changes({"recipe name": "a"}, {"recipe name": "a", "read by data.py:calibration": "0f"}) == []
    assert changes({"read by data.py:calibration": "0f"}, {"read by data.py:calibration": "1e"}) != []


def test_a_trial_is_read_back_as_it_was() -> None:
    trial = _came_to(3, {"quantize.calibrator": "mse"})
    assert trial_of(trial.to_json()) == trial

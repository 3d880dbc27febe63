"""The accuracy gate that init proposes: one that the samples can decide."""

import pytest

from mmdeploy.gates import accuracy
from mmdeploy.gates.foreseen import foreseen
from mmdeploy.scaffold.drop_limit import drop_limit
from mmdeploy.scoring.metrics import paired_proportion_interval


@pytest.mark.parametrize("samples", [25, 75, 150, 500, 1599, 1600, 5000])
def test_a_build_does_not_say_that_samples_are_too_few_for_what_init_proposed(samples: int) -> None:
    limit = drop_limit(samples)
    options = accuracy.Options.model_validate({"metric": "top1", **limit.options})
    assert foreseen(options, samples) is None
    assert options.max_drop is not None
    lost = max(2, samples // 100)
    if options.rule == "interval":
        assert paired_proportion_interval(lost, 0, samples, confidence=options.confidence)[1] <= options.max_drop
        assert str(samples) in limit.why
    else:
        assert (options.max_drop, limit.why) == (0.01, "")


@pytest.mark.parametrize(("samples", "max_drop"), [(1, 1.0), (4, 0.5), (20, 0.1)])
def test_a_handful_decides_nothing_and_the_comment_says_so(samples: int, max_drop: float) -> None:
    limit = drop_limit(samples)
    assert limit.options == {"max_drop": max_drop}
    assert f"{samples} samples decide nothing" in limit.why

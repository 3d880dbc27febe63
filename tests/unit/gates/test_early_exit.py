"""Who leaves a cascade early, judged on answers that say so themselves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmdeploy import gates
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Evidence, EvidenceCascade, Runner, Verdict
from mmdeploy.core.errors import DataError
from mmdeploy.gates import early_exit, parity
from mmdeploy.gates.in_process import InProcessDeployment
from mmdeploy.testing.served import evidence


class _Cascade(InProcessDeployment):
    """Answers samples early that ``left`` says, by the negative of the scores."""

    def __init__(self, whole: Any, left: Any, early: Any) -> None:
        super().__init__((), {}, (), {})
        self._whole, self._left, self._early = whole, left, early

    def runner(self, model: str | None = None) -> Runner:
        whole, left, early = self._whole.runner(model), self._left, self._early

        class Answering:
            inputs = whole.inputs
            outputs = (*whole.outputs, TensorSpec("left_early", "BOOL", (1,)))

            def infer(self, feed_dict: Any) -> Any:
                found, went = whole.infer(feed_dict), left(feed_dict["image"])[:, None]
                return {"scores": np.where(went, early(found["scores"]), found["scores"]), "left_early": went}

            def close(self) -> None:
                whole.close()

        return Answering()


def left(image: Any) -> Any:
    return image[:, 0] < 0.5


def nobody(image: Any) -> Any:
    return np.zeros(len(image), dtype=bool)


def judged(served: Any = left, early: Any = np.negative) -> Evidence:
    plain = evidence(subsets=())
    image, scores = plain.feeds["image"], plain.original["scores"]
    cascade = EvidenceCascade("left_early", left(image), {"scores": -scores})
    return replace(plain, candidate=_Cascade(plain.candidate, served, early), cascade=cascade)


def checks(options: Any, seen: Evidence) -> dict[str, tuple[float | None, Verdict]]:
    (result,), _ = gates.run_all([options], seen)
    return {check.name: (check.measured, check.verdict) for check in result.checks}


def test_the_share_that_leaves_early_is_judged():
    found = checks(early_exit.Options(min_left_early=0.9), judged())
    assert found == {"left early": (0.9, Verdict.PASS), "other way than in PyTorch": (0.0, Verdict.PASS)}
    assert checks(early_exit.Options(min_left_early=0.95), judged())["left early"][1] is Verdict.FAIL
    found = checks(early_exit.Options(min_left_early=0.9, rule="interval"), judged())
    assert found["left early"][1] is Verdict.INCONCLUSIVE
    (result,), _ = gates.run_all([early_exit.Options(min_left_early=0.1, max_left_early=0.5)], judged())
    assert [check.verdict for check in result.checks] == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]


def test_a_rule_that_is_served_otherwise_than_it_is_written_fails():
    found = checks(early_exit.Options(min_left_early=0.05), judged(lambda image: ~left(image)))
    assert found == {"left early": (0.1, Verdict.PASS), "other way than in PyTorch": (1.0, Verdict.FAIL)}
    (result,), _ = gates.run_all([early_exit.Options(min_left_early=0.05)], judged(nobody))
    assert result.verdict is Verdict.FAIL and "threshold" in (result.advice or "")


def test_a_gate_without_a_cascade_says_what_to_do():
    with pytest.raises(DataError, match="this recipe has none"):
        gates.run_all([early_exit.Options(min_left_early=0.5)], evidence(cascade=None))


def test_parity_compares_each_sample_with_the_answer_of_its_way():
    options = parity.Options(min_cosine=0.999, scope="end_to_end")
    for seen in (judged(), judged(nobody)):
        assert {verdict for _, verdict in checks(options, seen).values()} == {Verdict.PASS}
    found = checks(options, judged(early=lambda scores: scores))  # the answer of the rest, said to be early
    assert found["end to end: worst cosine"][1] is Verdict.FAIL

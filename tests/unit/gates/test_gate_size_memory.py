import json

import pytest
from gate_evidence import TimedDeployment, deployment, evidence, fusion
from pydantic import ValidationError

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.gates import memory, size


class Growing(TimedDeployment):
    """A deployment whose resident set grows with the requests that it has answered, then shrinks again."""

    def __init__(self, inner, base):
        super().__init__(inner, None, None)
        self.base, self.reads = base, 0

    def runner(self, model=None):
        return self._inner.runner(model)

    def memory_bytes(self):
        self.reads += 1
        return self.base + (500 if self.reads == 2 else 0)


def memory_options(**given):
    return memory.Options(method="memory", **({"seconds": 0.2} | given))


def test_sizes_are_summed_and_compared():
    small = deployment(sizes={"image_encoder": 300, "audio_encoder": 500, "fusion": 400})
    limits = {"max_bytes": 1200, "max_ratio_to_reference": 0.3}
    result = size.check(size.Options(method="size", **limits), evidence(candidate=small))
    assert [check.verdict for check in result.checks] == [Verdict.PASS, Verdict.PASS]
    assert [check.measured for check in result.checks] == [1200, 0.3]
    assert result.details["components"]["fusion"] == {"candidate_bytes": 400, "reference_bytes": 1000}
    tighter = size.Options(method="size", max_bytes=1199, max_ratio_to_reference=0.29)
    assert [check.verdict for check in size.check(tighter, evidence(candidate=small)).checks] == [Verdict.FAIL] * 2


def test_a_reference_without_engines_is_inconclusive():
    class Empty(Growing):
        def size_bytes(self):
            return {}

    result = size.check(
        size.Options(method="size", max_ratio_to_reference=0.5), evidence(reference=Empty(deployment(), 0))
    )
    assert result.verdict is Verdict.INCONCLUSIVE


def test_the_peak_of_the_resident_set_is_judged():
    sides = {"candidate": Growing(deployment(), 1000), "reference": Growing(deployment(), 2500)}
    result = memory.check(memory_options(max_bytes=1500, max_ratio_to_reference=0.5), evidence(**sides))
    assert [check.verdict for check in result.checks] == [Verdict.PASS, Verdict.PASS]
    assert result.checks[0].measured == 1500
    assert result.checks[1].measured == pytest.approx(0.5)
    json.dumps(result.details, allow_nan=False)
    sides = {"candidate": Growing(deployment(), 1000), "reference": Growing(deployment(), 2500)}
    tighter = memory.check(memory_options(max_bytes=1499, max_ratio_to_reference=0.49), evidence(**sides))
    assert [check.verdict for check in tighter.checks] == [Verdict.FAIL, Verdict.FAIL]


def test_memory_is_sampled_while_requests_are_answered():
    answered = []

    def counting(image, audio):
        answered.append(1)
        return fusion(image, audio)

    candidate = Growing(deployment({"fusion": counting}), 1000)
    memory.check(memory_options(max_bytes=10_000), evidence(candidate=candidate))
    assert candidate.reads > 2
    assert len(answered) > 16


def test_a_refusing_candidate_fails_and_a_refusing_reference_is_inconclusive():
    def refusing(image, audio):
        raise InferenceError("broken")

    limits = memory_options(max_ratio_to_reference=2.0)
    bad = memory.check(limits, evidence(candidate=deployment({"fusion": refusing})))
    assert (bad.verdict, bad.checks[0].note) == (Verdict.FAIL, "the candidate did not answer: broken")
    unknown = memory.check(limits, evidence(reference=deployment({"fusion": refusing})))
    assert (unknown.verdict, unknown.checks[0].note) == (
        Verdict.INCONCLUSIVE, "the reference did not answer: broken",
    )  # fmt: skip


def test_memory_of_a_stand_in_is_not_measured():
    result = memory.check(memory_options(max_bytes=1), evidence(substitute="no driver"))
    assert (result.verdict, result.checks[0].note) == (Verdict.INCONCLUSIVE, "no driver")


@pytest.mark.parametrize("module", [size, memory])
def test_a_limit_is_needed(module):
    with pytest.raises(ValidationError, match="at least one limit: max_bytes or max_ratio_to_reference"):
        module.Options(method=module.__name__.rpartition(".")[2])

"""What the gates share: limits, requests, the in-process deployment, running all."""

import json

import numpy as np
import onnx
import pytest
from gate_evidence import HARDWARE, deployment, evidence
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.contracts import Verdict, WiredComponent
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.gates import METHODS, limits, run_all
from mmdeploy.gates.in_process import InProcessDeployment
from mmdeploy.scoring import ask

FIGURES = st.floats(-1e6, 1e6)


@given(FIGURES, FIGURES, FIGURES)
def test_an_interval_decides_only_when_the_limit_is_outside(a, b, limit):
    low, high = min(a, b), max(a, b)
    at_most = limits.decided((low, high), at_most=limit)
    assert (at_most is Verdict.PASS) == (high <= limit)
    assert (at_most is Verdict.FAIL) == (low > limit)
    assert limits.decided((-high, -low), at_least=-limit) is at_most  # the mirrored question, the same answer


def test_an_interval_that_is_not_finite_decides_nothing():
    assert limits.decided((-np.inf, np.inf), at_most=1.0) is Verdict.INCONCLUSIVE
    assert limits.decided((np.nan, np.nan), at_most=1.0) is Verdict.INCONCLUSIVE


def test_point_estimates():
    assert limits.within(1.0, at_most=1.0) is Verdict.PASS
    assert limits.within(1.0 + 1e-9, at_most=1.0) is Verdict.FAIL
    assert limits.within(1.0 + 1e-9, at_most=1.0, slack=1e-6) is Verdict.PASS
    assert limits.within(float("nan"), at_least=0.0) is Verdict.FAIL


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*H100*", True), ("acme turbo 9000 cpu", True), ("H100", False), ("*A100*", False), ("*", True)],
)
def test_hardware_is_matched_by_name_or_glob(pattern, expected):
    assert limits.matches(pattern, HARDWARE) is expected


@given(st.integers(1, 40), st.integers(1, 50))
def test_requests_use_every_sample_and_all_have_the_same_size(samples, batch):
    feeds = {"x": np.arange(samples)[:, None]}
    cut = ask.requests(feeds, batch)
    assert {request["x"].shape for request in cut} == {(batch, 1)}
    assert set(np.concatenate([request["x"] for request in cut]).ravel()) == set(range(samples))


def doubling_model():
    return onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        doubling (float[N, 3] x) => (float[N, 3] y) { y = Add(x, x) }
        """
    ).SerializeToString()


def test_onnx_sessions_make_a_deployment():
    components = (
        WiredComponent("first", {"x": "given"}, {"y": "twice"}),
        WiredComponent("second", {"x": "twice"}, {"y": "four_times"}),
    )
    opener = lambda: SessionRunner(open_session(doubling_model(), {"intra_op_thread_count": "1"}))  # noqa: E731
    served = InProcessDeployment(components, {"first": opener, "second": opener}, ("four_times",), {"first": 9})
    runner = served.runner()
    assert [str(spec) for spec in runner.inputs] == ["given: FP32 [3]"]
    assert [str(spec) for spec in runner.outputs] == ["four_times: FP32 [3]"]
    answer = runner.infer({"given": np.ones((2, 3), np.float32)})
    assert answer["four_times"].tolist() == [[4.0] * 3] * 2
    assert served.runner("second").infer({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2.0] * 3]
    with pytest.raises(InferenceError, match=r"\[5\]"):
        runner.infer({"given": np.ones((2, 5), np.float32)})
    with pytest.raises(InferenceError, match="first lacks the tensor 'given'"):
        runner.infer({})
    assert served.memory_bytes() > 0
    runner.close()


def test_all_gates_run_whatever_the_first_says():
    gates = [
        METHODS["size"].Options(method="size", max_bytes=1),
        METHODS["parity"].Options(method="parity", min_cosine=0.9),
        METHODS["memory"].Options(method="memory", max_bytes=1),
    ]
    told = []
    watched = evidence(substitute="stand-in", progress=lambda done, total, what: told.append(what))
    results, verdict = run_all(
        gates,
        watched,
        started=lambda method: told.append(f"gate: {method}"),
        finished=lambda result, seconds: told.append(f"{result.gate} {result.verdict} {seconds >= 0}"),
    )
    assert [result.gate for result in results] == ["size", "parity", "memory"]
    assert [result.verdict for result in results] == [Verdict.FAIL, Verdict.PASS, Verdict.INCONCLUSIVE]
    assert verdict is Verdict.FAIL
    assert {"gate: size", "size fail True", "gate: parity", "parity: fusion", "gate: memory"} <= set(told)
    assert run_all([], evidence()) == ((), Verdict.PASS)


def test_a_runner_is_closed_even_if_it_refuses():
    closed = []

    class Refusing:
        inputs = outputs = ()

        def infer(self, feed_dict):
            raise InferenceError("no")

        def close(self):
            closed.append(True)

    served = InProcessDeployment((), {"only": Refusing}, (), {})
    with pytest.raises(InferenceError):
        ask.answers(served, "only", {"x": np.ones((2, 1))}, max_batch_size=1, progress=lambda *_: None, what="test")
    assert closed == [True]


def test_details_are_json(capsys):
    result = METHODS["size"].check(METHODS["size"].Options(method="size", max_bytes=10), evidence())
    assert json.loads(json.dumps(result.details, allow_nan=False)) == result.details
    assert deployment().size_bytes()["fusion"] == 1000
    assert capsys.readouterr().out == ""

"""The contract checks of `mmdeploy.testing` find what is wrong with a plug-in, and say it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from pydantic import Field

from mmdeploy import testing
from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.contracts import Check, GateResult, MethodOptions, Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.scoring.ask import answers


class Options(MethodOptions):
    """Limits."""

    limit: float = Field(0.1, description="A number.")


class Flips:
    """Compares answers."""

    Options = Options

    @staticmethod
    def check(options, evidence):
        try:
            found = answers(
                evidence.candidate, None, evidence.feeds, max_batch_size=evidence.max_batch_size,
                progress=evidence.progress, what="gate",
            )["scores"]  # fmt: skip
        except InferenceError as error:
            return GateResult("gate", (Check("share", None, "<= 0", Verdict.FAIL, note=error.message),))
        share = float((found.argmax(1) != evidence.original["scores"].argmax(1)).mean())
        return GateResult("gate", (Check("share", share, "<= 0", Verdict.PASS if share <= 0 else Verdict.FAIL),))


def changed_gate(**members):
    return type("changed", (Flips,), {"__doc__": Flips.__doc__, **members})


def test_a_right_gate_is_right():
    testing.check_gate(Flips, {})


def raising(options, evidence):
    evidence.candidate.runner().infer(evidence.feeds)
    return GateResult("gate", (Check("share", 0.0, "<= 0", Verdict.PASS),))


def silent(options, evidence):
    result = Flips.check(options, evidence)
    return replace(result, checks=tuple(replace(check, note="") for check in result.checks))


def infinite(options, evidence):
    return replace(Flips.check(options, evidence), details={"figure": float("nan")})


class Undescribed(MethodOptions):
    """Limits."""

    limit: float = 0.1


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"check": staticmethod(raising)}, "a candidate that refuses is an exception, and must be a result"),
        ({"check": staticmethod(silent)}, "no check's note has the reason"),
        ({"check": staticmethod(infinite)}, "details must be what JSON can hold"),
        ({"check": staticmethod(lambda options, evidence: True)}, "check gave bool, and must give a GateResult"),
        ({"check": staticmethod(lambda options, evidence: GateResult("gate", ()))}, "there is no check"),
        ({"check": None}, "it has no check"),
        ({"Options": Undescribed}, "not described in the docstring's Attributes or by Field.*: limit"),
        ({"advice": staticmethod(lambda options, result: "")}, "advice must be words, or None"),
        ({"__doc__": ""}, "there is no docstring"),
    ],
)
def test_a_wrong_gate_is_told(members, told):
    with pytest.raises(AssertionError, match=told):
        testing.check_gate(changed_gate(**members), {})


class Copy:
    """Copies a graph."""

    CONSUMES, PRODUCES = "onnx", "onnx"
    REQUIRES = ("onnx",)
    Options = Options

    @staticmethod
    def run(artifact, options, context):
        path = context.workdir / "model.onnx"
        path.write_bytes(artifact.path.read_bytes())
        return replace(artifact, path=path, sha256=file_sha256(path), produced_by="copy")


def test_a_right_pass_is_right():
    assert testing.check_pass(Copy, "quantize", {}) is None


def elsewhere(artifact, options, context):
    (context.workdir.parent / "note.txt").write_text("here")
    return Copy.run(artifact, options, context)


def in_place(artifact, options, context):
    artifact.path.write_bytes(artifact.path.read_bytes() + b"")
    model = onnx.load(artifact.path)
    model.doc_string = "changed"
    onnx.save(model, artifact.path)
    return Copy.run(artifact, options, context)


def random_bytes(artifact, options, context):
    model = onnx.load(artifact.path)
    model.doc_string = str(np.random.default_rng().random())
    onnx.save(model, context.workdir / "model.onnx")
    path = context.workdir / "model.onnx"
    return replace(artifact, path=path, sha256=file_sha256(path), produced_by="random")


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"run": staticmethod(elsewhere)}, "it wrote outside of context.workdir"),
        ({"run": staticmethod(in_place)}, "it wrote outside of context.workdir, or changed what it was given"),
        ({"run": staticmethod(random_bytes)}, "a second run gave other bytes"),
        (
            {"run": staticmethod(lambda artifact, options, context: artifact)},
            "does not lie directly in context.workdir",
        ),
        (
            {"run": staticmethod(lambda artifact, options, context: None)},
            "run gave NoneType, and must give an Artifact",
        ),
        ({"REQUIRES": ("no_such_import",)}, "REQUIRES names 'no_such_import', which is not installed"),
        ({"data_needs": staticmethod(lambda options: frozenset({"test"}))}, r"data_needs gives \['test'\]"),
        ({"PRODUCES": "torch"}, "quantize takes what turns"),
    ],
)
def test_a_wrong_pass_is_told(members, told):
    with pytest.raises(AssertionError, match=told):
        testing.check_pass(type("changed", (Copy,), {"__doc__": "Changed.", **members}), "quantize", {})


class Plain:
    """ONNX Runtime."""

    CONSUMES, PRODUCES = "onnx", "own"
    BACKEND, FILENAME = "onnxruntime", "model.onnx"
    Options = Options

    @staticmethod
    def run(artifact, options, context):
        return replace(Copy.run(artifact, options, context), format="own")

    @staticmethod
    def load(artifact, options):
        from mmdeploy.core.sessions import SessionRunner, open_session

        return SessionRunner(open_session(artifact.path, {}))


class Off:
    """Answers a little less than the engine does."""

    def __init__(self, inner):
        self._inner, self.inputs, self.outputs = inner, inner.inputs, inner.outputs

    def infer(self, feed_dict):
        return {name: array * 0.9 for name, array in self._inner.infer(feed_dict).items()}

    def close(self):
        self._inner.close()


def test_a_right_engine_is_right():
    assert testing.check_engine(Plain, {}) is None


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"load": staticmethod(lambda artifact, options: Off(Plain.load(artifact, options)))},
         "scores differs by up to 0.* from what it was built from"),
        ({"serving": staticmethod(lambda options: {"threads": 1})}, "parameters of config.pbtxt are strings"),
        ({"unavailable": staticmethod(lambda options: " ")}, "unavailable gives an empty reason"),
        ({"FILENAME": "other.onnx"}, "the file is model.onnx, and FILENAME is other.onnx"),
        ({"STAND_IN": "/nowhere"}, "STAND_IN, /nowhere, has no model.py"),
    ],
)  # fmt: skip
def test_a_wrong_engine_is_told(members, told):
    with pytest.raises(AssertionError, match=told):
        testing.check_engine(type("changed", (Plain,), {"__doc__": "Changed.", **members}), {})


def test_an_engine_that_cannot_run_here_is_built_and_says_why():
    members = {"unavailable": staticmethod(lambda options: "no such chip")}
    assert testing.check_engine(type("changed", (Plain,), {"__doc__": "Changed.", **members}), {}) == "no such chip"

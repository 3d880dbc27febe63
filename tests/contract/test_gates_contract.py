"""Every gate goes through the same lifecycle: a candidate that equals its reference, and one that cannot answer."""

import inspect
import json
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin

import jsonschema
import numpy as np
import pytest

from mmdeploy import gates
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Evidence, Gate, GateResult, MethodOptions, Verdict, WiredComponent, method_of
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.target import this_hardware
from mmdeploy.gates.in_process import InProcessDeployment

#: The least that a recipe must say to use each gate, with limits that equals keep by a wide margin.
LENIENT: dict[str, dict[str, Any]] = {
    "parity": {"min_cosine": 0.9},
    "accuracy": {"metric": "top1", "max_drop": 0.1},
    "latency": {"max_ratio_to_reference": 100.0, "max_seconds": 5},
    "throughput": {"min_ratio_to_reference": 0.01, "max_seconds": 5},
    "size": {"max_ratio_to_reference": 1.0},
    "memory": {"max_bytes": 2**40, "seconds": 0.1},
}
MEASURED_ON_THE_SERVER = ("latency", "throughput", "memory")

each_gate = pytest.mark.parametrize("name", sorted(gates.METHODS))


class Classifier:
    """Ten classes by the nearest of ten corners; ``refuses`` answers nothing."""

    inputs = (TensorSpec("pixels", "FP32", (10,)),)
    outputs = (TensorSpec("logits", "FP32", (10,)),)

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses

    def infer(self, feed_dict):
        if self.refuses:
            raise InferenceError("this model answers nothing")
        return {"logits": feed_dict["pixels"] * 2}

    def close(self) -> None:
        pass


def deployment(refuses: bool = False) -> InProcessDeployment:
    part = WiredComponent("only", {"pixels": "image"}, {"logits": "scores"})
    return InProcessDeployment((part,), {"only": lambda: Classifier(refuses)}, ("scores",), {"only": 1000})


def evidence(**changes: Any) -> Evidence:
    labels = np.arange(40) % 10
    image = np.eye(10, dtype=np.float32)[labels] + np.random.default_rng(0).normal(0, 0.1, (40, 10)).astype(np.float32)
    fields: dict[str, Any] = {
        "candidate": deployment(),
        "reference": deployment(),
        "components": (WiredComponent("only", {"pixels": "image"}, {"logits": "scores"}),),
        "ensemble_outputs": ("scores",),
        "feeds": {"image": image},
        "labels": labels,
        "original": {"scores": image * 2},
        "hardware": this_hardware(),
        "max_batch_size": 8,
    }
    return Evidence(**(fields | changes))


def options(name: str) -> MethodOptions:
    return gates.METHODS[name].Options(method=name, **LENIENT[name])


@each_gate
def test_a_gate_is_a_documented_module_with_named_options(name: str):
    module: Gate = gates.METHODS[name]
    assert inspect.ismodule(module)
    assert module.__name__.rpartition(".")[2] == name
    text = inspect.getdoc(module) or ""
    for told in ("What it does:", "When to choose it:", "What it needs:", "Limits:"):
        assert told in text
    assert all(isinstance(requirement, str) for requirement in module.REQUIRES)
    annotation = module.Options.model_fields["method"].annotation
    assert get_origin(annotation) is Literal
    assert get_args(annotation) == (name,)


@each_gate
def test_the_schema_accepts_what_the_options_accept(name: str):
    module = gates.METHODS[name]
    schema = module.Options.model_json_schema()
    assert schema["additionalProperties"] is False
    jsonschema.validate({"method": name, **LENIENT[name]}, schema)
    for field in module.Options.model_fields:
        assert field == "method" or f"{field}:" in documented(module.Options), f"{name}.{field} is not explained"


def documented(options_class: type) -> str:
    return "\n".join(inspect.getdoc(parent) or "" for parent in options_class.__mro__[:-1])


@each_gate
def test_options_are_frozen_and_take_nothing_else(name: str):
    given = options(name)
    assert method_of(given) == name
    with pytest.raises(ValueError, match="frozen"):
        given.method = "other"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="extra"):
        gates.METHODS[name].Options(method=name, **LENIENT[name], surprise=1)
    with pytest.raises(ValueError, match=r"at least one limit|Field required"):
        gates.METHODS[name].Options(method=name)


@each_gate
def test_an_equal_candidate_passes(name: str):
    result = gates.METHODS[name].check(options(name), evidence())
    assert isinstance(result, GateResult)
    assert result.gate == name
    assert result.verdict is Verdict.PASS
    assert result.checks
    for check in result.checks:
        assert check.measured is not None
        assert check.name
        assert check.limit
        if check.interval is not None:
            assert check.interval[0] <= check.measured <= check.interval[1]
    json.dumps(dict(result.details), allow_nan=False)


@each_gate
def test_a_candidate_that_refuses_is_a_no_and_not_an_exception(name: str):
    result = gates.METHODS[name].check(options(name), evidence(candidate=deployment(refuses=True)))
    if name == "size":
        assert result.verdict is Verdict.PASS  # nothing is asked
        return
    assert result.verdict is Verdict.FAIL
    assert "this model answers nothing" in " ".join(check.note for check in result.checks)
    json.dumps(dict(result.details), allow_nan=False)


@each_gate
def test_a_candidate_that_does_not_serve_the_model_is_a_no(name: str):
    class Absent(InProcessDeployment):
        def runner(self, model=None):
            raise InferenceError("unknown model")

    absent = Absent((), {}, (), {"only": 1000})
    result = gates.METHODS[name].check(options(name), evidence(candidate=absent))
    assert result.verdict is (Verdict.PASS if name == "size" else Verdict.FAIL)
    assert name == "size" or "unknown model" in result.checks[0].note


@each_gate
def test_a_stand_in_says_nothing_about_speed_or_memory(name: str):
    result = gates.METHODS[name].check(options(name), evidence(substitute="no GPU"))
    expected = Verdict.INCONCLUSIVE if name in MEASURED_ON_THE_SERVER else Verdict.PASS
    assert result.verdict is expected
    if name in MEASURED_ON_THE_SERVER:
        assert all(check.measured is None and check.note == "no GPU" for check in result.checks)


@each_gate
def test_samples_may_be_served_one_at_a_time(name: str):
    assert gates.METHODS[name].check(options(name), evidence(max_batch_size=0)).verdict is Verdict.PASS


def test_reading_a_recipe_loads_nothing_heavy():
    code = (
        "import sys, mmdeploy.gates as gates\n"
        "[method.Options.model_json_schema() for method in gates.METHODS.values()]\n"
        "print(sorted({'torch', 'torchmetrics', 'scipy', 'onnx', 'onnxruntime', 'tritonclient'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

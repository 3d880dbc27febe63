"""Every gate goes through the same lifecycle: that of `mmdeploy.testing`, and what we ask of our own besides."""

import inspect
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin

import pytest

from mmdeploy import gates, testing
from mmdeploy.core.contracts import Gate

#: The least that a recipe must say to use each gate, with limits that equals keep by a wide margin.
LENIENT: dict[str, dict[str, Any]] = {
    "parity": {"min_cosine": 0.9},
    "accuracy": {"metric": "top1", "max_drop": 0.1},
    "graceful": {"max_drop_when_missing": {"sound": 0.1}},
    "early_exit": {"min_left_early": 0.5},
    "latency": {"max_ratio_to_reference": 100.0, "max_seconds": 5},
    "throughput": {"min_ratio_to_reference": 0.01, "max_seconds": 5},
    "size": {"max_ratio_to_reference": 1.0},
    "memory": {"max_bytes": 2**40, "seconds": 0.1},
}
MEASURED_ON_THE_SERVER = ("latency", "throughput", "memory")

each_gate = pytest.mark.parametrize("name", sorted(gates.METHODS.built_in))


@each_gate
def test_contract(name: str):
    testing.check_gate(
        gates.METHODS[name],
        LENIENT[name],
        asks_the_candidate=name != "size",
        measures_the_server=name in MEASURED_ON_THE_SERVER,
    )


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
def test_a_limit_must_be_given(name: str):
    with pytest.raises(ValueError, match=r"at least one limit|Field required"):
        gates.METHODS[name].Options(method=name)


def test_reading_a_recipe_loads_nothing_heavy():
    code = (
        "import sys, mmdeploy.gates as gates\n"
        "[method.Options.model_json_schema() for method in gates.METHODS.values()]\n"
        "print(sorted({'torch', 'torchmetrics', 'scipy', 'onnx', 'onnxruntime', 'tritonclient'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What every pass declares: names that the plan, the environment check and the store's keys rely on."""

from importlib.util import find_spec
from typing import Any

import pytest

from mmdeploy import export, prune, quantize, recover, testing
from mmdeploy.planning.fingerprints import version_of

PASSES = {
    f"{package.__name__}.{name}": module
    for package in (prune, recover, quantize, export)
    for name, module in package.METHODS.built_in.items()
}
#: Options with which a pass can be run on a small component, by name; where it needs none, nothing.
GIVEN: dict[str, dict[str, Any]] = {
    "magnitude": {"sparsity": 0.5}, "structured": {"ratio": 0.5}, "static": {"batch_size": 16},
    "distill": {"student": "model.py:small"},
}  # fmt: skip
SPLITS = {"calibration", "training", "validation"}


@pytest.fixture(params=PASSES)
def declared(request: pytest.FixtureRequest) -> Any:
    return PASSES[request.param]


@pytest.mark.parametrize("name", PASSES)
def test_contract(name: str) -> None:
    _, section, method = name.split(".")
    reason = testing.check_pass(PASSES[name], section, GIVEN.get(method, {}))
    if reason:
        pytest.skip(reason)


def test_formats_are_those_of_the_chain(declared: Any) -> None:
    assert (declared.CONSUMES, declared.PRODUCES) in {("torch", "torch"), ("torch", "onnx"), ("onnx", "onnx")}


def test_requirements_are_names_that_are_imported(declared: Any) -> None:
    assert declared.REQUIRES
    for name in declared.REQUIRES:
        assert find_spec(name) is not None, f"{name} cannot be imported: is it a distribution's name?"
        assert version_of(name), f"the version of {name} is not known: a step's key would not change with it"


def test_the_method_is_the_key_of_the_entry() -> None:
    for key, module in PASSES.items():
        assert module.Options.model_fields["method"].annotation.__args__ == (key.rpartition(".")[2],)


def test_it_says_what_it_does_and_what_it_needs(declared: Any) -> None:
    for words in ("What it does to the numbers:", "When to choose it:", "What it needs:", "Limits"):
        assert words in declared.__doc__


def test_data_that_it_reads_is_of_a_known_split(declared: Any) -> None:
    fields = declared.Options.model_fields
    method = fields["method"].default
    required = {name: 0.5 for name, field in fields.items() if field.is_required()} | GIVEN.get(method, {})
    options = declared.Options.model_validate(required | {"method": method})
    assert declared.data_needs(options) <= SPLITS

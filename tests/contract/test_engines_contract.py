"""Every engine goes through the same lifecycle; what its machine or distribution lacks is skipped visibly."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from mmdeploy import engines, testing
from mmdeploy.choice.options import default_engine
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, Engine
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError
from mmdeploy.core.target import Target

each_engine = pytest.mark.parametrize("name", sorted(engines.METHODS.built_in))


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    return testing.graph(tmp_path / "source", quantized=True)


def missing(engine: Engine) -> list[str]:
    return [module for module in engine.REQUIRES if find_spec(module) is None]


@each_engine
def test_contract(name: str) -> None:
    engine = engines.METHODS[name]
    if absent := missing(engine):
        pytest.skip(f"not installed: {', '.join(absent)}")
    if reason := testing.check_engine(engine, {}):
        pytest.skip(f"built, and not run: {reason}")


@each_engine
def test_what_cannot_run_here_is_not_loaded(name: str, source: Artifact, tmp_path: Path) -> None:
    engine = engines.METHODS[name]
    options = engine.Options()
    if missing(engine) or not engine.unavailable(options):
        pytest.skip(f"{name} runs here, or cannot be built")
    built = engine.run(source, options, testing.context(tmp_path / "work"))
    with pytest.raises((EnvironmentUnfitError, EngineError)):
        engine.load(built, options)


@each_engine
def test_members_without_its_distribution(name: str) -> None:
    engine = engines.METHODS[name]
    options = engine.Options()
    assert options.model_dump()["method"] == name
    assert engine.CONSUMES in ("onnx", "torch")
    assert engine.PRODUCES and engine.BACKEND and engine.FILENAME
    assert engine.encoding(options) in Encoding
    reason = engine.unavailable(options)
    assert reason is None or reason.strip()
    assert not engine.unbuildable(options), "what builds an engine here is installed by this project or the machine"


@each_engine
def test_the_docstring_tells_what_list_prints(name: str) -> None:
    text = str(engines.METHODS[name].__doc__)
    for heading in ("What it does to the numbers:", "When to choose it:", "Needs:", "Limits:"):
        assert heading in text


def test_each_target_has_a_default() -> None:
    for options in map(default_engine, Target):
        assert isinstance(options, engines.METHODS[options.model_dump()["method"]].Options)


@each_engine
def test_candidates_are_of_the_engine_differ_and_begin_with_full_precision(name: str) -> None:
    engine = engines.METHODS[name]
    found = {target: engine.candidates(target) for target in Target}
    assert any(found.values()), "no target tries it"
    for variants in found.values():
        assert len(set(map(repr, variants))) == len(variants)
        assert all(isinstance(variant.options, engine.Options) for variant in variants)
        for variant in variants[:1]:
            assert variant.graph == "float"
            assert variant.options.model_dump().get("precision", "fp32") == "fp32"
    for target in Target:
        assert set(map(repr, found[target])) <= set(map(repr, engine.candidates(target, threads=4)))


def test_each_target_has_candidates_of_both_kinds_its_default_among_them() -> None:
    for target in Target:
        default = default_engine(target)
        variants = [variant for engine in engines.METHODS.values() for variant in engine.candidates(target)]
        assert {variant.graph for variant in variants} == {"float", "quantized"}
        assert default in [variant.options for variant in variants]


@each_engine
def test_a_missing_distribution_is_said_with_what_to_install(name: str, source: Artifact, tmp_path: Path) -> None:
    engine = engines.METHODS[name]
    if not missing(engine):
        pytest.skip(f"{', '.join(engine.REQUIRES)} are installed")
    with pytest.raises(EnvironmentUnfitError, match="distribution") as caught:
        engine.run(source, engine.Options(), testing.context(tmp_path / "work"))
    assert "pip install" in str(caught.value.hint)

"""Every engine goes through the same lifecycle; what its machine or distribution lacks is skipped visibly."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmdeploy import engines
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, Engine, StepContext
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.target import Target

#: A Q/DQ pair around the input, an attention-like product of two activations, and a UINT8 input beside it.
GRAPH = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch,4,8] tokens, uint8[batch,8] pixels) => (float[batch,4,4] scores, float[batch,8] scaled)
<float s = {0.03}, int8 z = {0}, float unit = {255.0}> {
    q = QuantizeLinear(tokens, s, z)
    d = DequantizeLinear(q, s, z)
    h = MatMul(d, w)
    t = Transpose <perm = [0, 2, 1]> (h)
    p = MatMul(h, t)
    scores = Softmax(p)
    f = Cast <to = 1> (pixels)
    scaled = Div(f, unit)
}"""
INPUTS = (TensorSpec("tokens", "FP32", (4, 8)), TensorSpec("pixels", "UINT8", (8,)))
OUTPUTS = (TensorSpec("scores", "FP32", (4, 4)), TensorSpec("scaled", "FP32", (8,)))

each_engine = pytest.mark.parametrize("name", sorted(engines.METHODS))


def examples(batch: int) -> dict[str, Any]:
    generator = np.random.default_rng(11)
    return {
        "tokens": generator.normal(size=(batch, 4, 8)).astype(np.float32),
        "pixels": generator.integers(0, 256, size=(batch, 8), dtype=np.uint8),
    }


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    model = onnx.parser.parse_model(GRAPH)
    weights = np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32) / 8
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "source" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return Artifact("onnx", path, file_sha256(path), INPUTS, OUTPUTS, "test")


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    workdir = tmp_path / "work"
    workdir.mkdir()
    return StepContext(
        component="fusion",
        workdir=workdir,
        target=Target.CPU,
        encoding=Encoding.INT8_SYMMETRIC,
        max_batch_size=4,
        seed=0,
        threads=1,
        examples=examples,
    )


def missing(engine: Engine) -> list[str]:
    return [module for module in engine.REQUIRES if find_spec(module) is None]


@each_engine
def test_members(name: str) -> None:
    engine = engines.METHODS[name]
    options = engine.Options()
    assert options.model_dump()["method"] == name
    assert engine.CONSUMES == "onnx"
    assert engine.PRODUCES and engine.BACKEND and engine.FILENAME
    assert engine.encoding(options) in Encoding
    assert all(isinstance(part, str) for pair in engine.serving(options).items() for part in pair)
    reason = engine.unavailable(options)
    assert reason is None or reason.strip()


@each_engine
def test_the_docstring_tells_what_list_prints(name: str) -> None:
    text = str(engines.METHODS[name].__doc__)
    for heading in ("What it does to the numbers:", "When to choose it:", "Needs:", "Limits:"):
        assert heading in text


def test_each_target_has_a_default() -> None:
    assert set(engines.DEFAULT_BY_TARGET) == set(Target)
    for options in engines.DEFAULT_BY_TARGET.values():
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
    for target, default in engines.DEFAULT_BY_TARGET.items():
        variants = [variant for engine in engines.METHODS.values() for variant in engine.candidates(target)]
        assert {variant.graph for variant in variants} == {"float", "quantized"}
        assert default in [variant.options for variant in variants]


@each_engine
def test_lifecycle(name: str, source: Artifact, context: StepContext) -> None:
    engine = engines.METHODS[name]
    if absent := missing(engine):
        pytest.skip(f"not installed: {', '.join(absent)}")
    options = engine.Options()
    before = file_sha256(source.path)
    built = engine.run(source, options, context)

    assert built.format == engine.PRODUCES
    assert built.path == context.workdir / engine.FILENAME
    assert built.sha256 == file_sha256(built.path)
    assert (built.inputs, built.outputs) == (INPUTS, OUTPUTS)
    assert built.produced_by == name
    assert file_sha256(source.path) == before
    json.dumps(dict(built.metadata))
    assert Artifact.from_json(built.to_json(), context.workdir).sha256 == built.sha256

    substitute = SessionRunner(open_session(context.workdir / built.metadata["graph"], {}))
    assert {spec.name: spec.dtype for spec in substitute.inputs} == {spec.name: spec.dtype for spec in INPUTS}
    assert_parity(substitute, source)


@each_engine
def test_parity_of_the_loaded_engine(name: str, source: Artifact, context: StepContext) -> None:
    engine = engines.METHODS[name]
    if absent := missing(engine):
        pytest.skip(f"not installed: {', '.join(absent)}")
    options = engine.Options()
    built = engine.run(source, options, context)
    if reason := engine.unavailable(options):
        with pytest.raises((EnvironmentUnfitError, EngineError)):
            engine.load(built, options)
        pytest.skip(f"{name} cannot run here: {reason}")
    runner = engine.load(built, options)
    assert_parity(runner, source)
    runner.close()
    runner.close()


@each_engine
def test_a_missing_distribution_is_said_with_what_to_install(name: str, source: Artifact, context: StepContext) -> None:
    engine = engines.METHODS[name]
    if not missing(engine):
        pytest.skip(f"{', '.join(engine.REQUIRES)} are installed")
    with pytest.raises(EnvironmentUnfitError, match="distribution") as caught:
        engine.run(source, engine.Options(), context)
    assert "pip install" in str(caught.value.hint)


def assert_parity(runner: Any, source: Artifact) -> None:
    original = SessionRunner(open_session(source.path, {}))
    for batch in (1, 3):
        feed = examples(batch)
        found, wanted = runner.infer(feed), original.infer(feed)
        assert set(found) == set(wanted)
        for tensor, array in wanted.items():
            np.testing.assert_allclose(found[tensor], array, rtol=1e-3, atol=1e-4)

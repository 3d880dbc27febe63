from typing import Literal

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding
from mmdeploy.core.errors import EngineError
from mmdeploy.core.target import usable_cores
from mmdeploy.engines import onnxruntime as engine

GRAPH = "g (float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }"
WEIGHTS = {"w": np.arange(8, dtype=np.float32).reshape(4, 2)}


def test_serving_writes_what_was_chosen() -> None:
    default = engine.serving(engine.Options())
    assert default["intra_op_thread_count"] == "1"
    cores = engine.serving(engine.Options(intra_op_threads="cores"))
    assert cores["intra_op_thread_count"] == str(usable_cores())
    assert default["session.intra_op.allow_spinning"] == "0"
    assert "optimization.graph.level" not in default
    chosen = engine.serving(
        engine.Options(intra_op_threads=3, inter_op_threads=2, allow_spinning=True, graph_level="extended")
    )
    assert chosen == {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "session.intra_op.allow_spinning": "1",
        "session.inter_op.allow_spinning": "1",
        "optimization.graph.level": "1",
        INSTANCE_KIND: "KIND_CPU",
    }
    assert engine.serving(engine.Options(provider="cuda"))[INSTANCE_KIND] == "KIND_GPU"


def test_encoding_follows_the_provider() -> None:
    assert engine.encoding(engine.Options()) is Encoding.UINT8_ASYMMETRIC
    assert engine.encoding(engine.Options(provider="cuda")) is Encoding.INT8_SYMMETRIC


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_named_encoding_outranks_the_provider(provider: Literal["cpu", "cuda"], encoding: Encoding) -> None:
    assert engine.encoding(engine.Options(provider=provider, encoding=encoding)) is encoding


@pytest.mark.parametrize("bad", [{"intra_op_threads": 0}, {"provider": "tpu"}, {"graph_level": "2"}, {"thread": 1}])
def test_options_refuse(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        engine.Options.model_validate(bad)


def test_the_engine_answers_as_the_graph(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    context = make_context(source)
    built = engine.run(source, engine.Options(), context)
    assert built.path == context.workdir / "model.onnx"
    assert built.sha256 == file_sha256(built.path)
    assert (built.inputs, built.outputs) == (source.inputs, source.outputs)
    feed = context.examples(3)
    runner = engine.load(built, engine.Options())
    np.testing.assert_allclose(runner.infer(feed)["y"], feed["x"] @ WEIGHTS["w"], rtol=1e-6)
    runner.close()


def test_external_weights_come_along_inside_the_graph_where_they_fit(make_onnx, make_context) -> None:
    inline = make_onnx(GRAPH, weights=WEIGHTS)
    path = inline.path.with_name("outside.onnx")
    onnx.save(onnx.load(inline.path), path, save_as_external_data=True, location="elsewhere.bin", size_threshold=0)
    source = Artifact("onnx", path, file_sha256(path), inline.inputs, inline.outputs, "test")
    context = make_context(source)
    built = engine.run(source, engine.Options(), context)
    assert {file.name for file in context.workdir.iterdir()} == {"model.onnx"}
    assert built.size_bytes == built.path.stat().st_size > WEIGHTS["w"].nbytes
    path.with_name("elsewhere.bin").unlink()
    feed = context.examples(1)
    np.testing.assert_allclose(engine.load(built, engine.Options()).infer(feed)["y"], feed["x"] @ WEIGHTS["w"])


def test_a_graph_that_is_not_what_the_artifact_says_is_refused(make_onnx, make_context) -> None:
    source = make_onnx(GRAPH, weights=WEIGHTS)
    renamed = Artifact(
        source.format, source.path, source.sha256, (TensorSpec("pixels", "FP32", (4,)),), source.outputs, "test"
    )
    with pytest.raises(EngineError, match=r"encoder: the graph's inputs are x: FP32 \[4\], .* said pixels"):
        engine.run(renamed, engine.Options(), make_context(source))


def test_an_operator_that_onnx_runtime_lacks_is_refused(make_onnx, make_context) -> None:
    source = make_onnx("g (float[N,4] x) => (float[N,4] y) { y = my.domain.Frobnicate(x) }")
    with pytest.raises(EngineError, match=r"cannot load .*Frobnicate"):
        engine.run(source, engine.Options(), make_context(source))


def test_cuda_is_verified_on_the_cpu_where_it_cannot_run(make_onnx, make_context) -> None:
    options = engine.Options(provider="cuda")
    if engine.unavailable(options) is None:
        pytest.skip("the CUDA provider runs here")
    source = make_onnx(GRAPH, weights=WEIGHTS)
    built = engine.run(source, options, make_context(source))
    assert built.metadata["verified_with"] == "CPUExecutionProvider"

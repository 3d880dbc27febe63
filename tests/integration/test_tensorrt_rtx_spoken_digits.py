"""The real components of recipes/spoken_digits become TensorRT for RTX engines on a CPU: FP32, FP16 and INT8.

What cannot run here is judged on the graph that stands in for the engine, through ONNX Runtime.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmdeploy import engines, export, quantize
from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Artifact, TensorSpec
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import DataError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.target import Target
from mmdeploy.model.sources import resolve_callable
from mmdeploy.model.torch_component import ComponentFacts
from mmdeploy.model.torch_model import TorchChain, WiredModule, load_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2] / "recipes" / "spoken_digits"
WEIGHTS = "weights.safetensors"
MAX_BATCH_SIZE = 16
Feed = dict[str, Any]

COMPONENTS = (
    WiredModule("image_encoder", "image_encoder", {"pixels": "image"}, {"tokens": "image_tokens"}),
    WiredModule("audio_encoder", "audio_encoder", {"waveform": "audio"}, {"tokens": "audio_tokens"}),
    WiredModule("fusion", "fusion", {"image": "image_tokens", "audio": "audio_tokens"}, {"logits": "logits"}),
)
#: The spectrogram's power spans too many orders of magnitude for 8 bits.
FLOAT_NODES = {"audio_encoder": ("spectrogram/*",)}


@dataclasses.dataclass
class Built:
    """A component: its exported graph, and how to make contexts for further steps."""

    graph: Artifact
    context: Callable[[str], StepContext]


@pytest.fixture(scope="module")
def samples() -> Feed:
    """48 pairs of the calibration split."""
    calibration = resolve_callable("data.py:calibration", ROOT, error=DataError)
    taken = [sample[0] if isinstance(sample, tuple) else sample for sample in itertools.islice(calibration(), 48)]
    return {name: np.stack([feed[name] for feed in taken]) for name in ("image", "audio")}


@pytest.fixture(scope="module")
def tensors(samples: Feed) -> Feed:
    """Every ensemble tensor on those pairs, as PyTorch computes it."""
    model = load_model("model.py:build", root=ROOT, weights=Path(WEIGHTS))
    return samples | TorchChain(model, COMPONENTS).run(samples)


@pytest.fixture(scope="module", params=COMPONENTS, ids=lambda component: component.name)
def component(request: pytest.FixtureRequest, tensors: Feed, tmp_path_factory: Any) -> Built:
    """Export one component."""
    wired = request.param
    name = wired.name
    feed = {key: tensors[tensor] for key, tensor in wired.inputs.items()}
    inputs = tuple(TensorSpec(key, DTYPE_BY_NUMPY[array.dtype.name], array.shape[1:]) for key, array in feed.items())

    def calibration() -> Iterator[Feed]:
        for start in range(0, 48, 16):
            yield {key: values[start : start + 16] for key, values in feed.items()}

    def context(step: str) -> StepContext:
        return StepContext(
            component=name,
            workdir=tmp_path_factory.mktemp(f"{name}_{step}"),
            target=Target.TENSORRT_RTX,
            encoding=Encoding.INT8_SYMMETRIC,
            max_batch_size=MAX_BATCH_SIZE,
            seed=0,
            threads=2,
            examples=lambda batch: {key: values[:batch] for key, values in feed.items()},
            calibration=calibration,
            calibration_batches=3,
        )

    facts = ComponentFacts(
        "model.py:build", ROOT, Path(WEIGHTS), wired.module, tuple(wired.inputs), tuple(wired.outputs)
    )
    torch = Artifact("torch", ROOT / WEIGHTS, "", inputs, (), "recipe", as_metadata(facts))
    exporter = export.METHODS["onnx"]
    return Built(exporter.run(torch, exporter.Options(), context("export")), context)


def answers(path: Path, feed: Feed) -> np.ndarray:
    runner = SessionRunner(open_session(path, {"intra_op_thread_count": "2"}))
    return runner.infer(feed)[runner.outputs[0].name]


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.ravel().astype(np.float64), right.ravel().astype(np.float64)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def build(graph: Artifact, context: StepContext, **options: Any) -> Artifact:
    engine = engines.METHODS["tensorrt_rtx"]
    built = engine.run(graph, engine.Options(**options), context)
    assert built.path.stat().st_size == built.metadata["engine_bytes"] > 0
    assert built.inputs == graph.inputs, "clients send the same types as to the ONNX graph"
    assert built.metadata["optimization_profile"][built.inputs[0].name]["max"][0] == MAX_BATCH_SIZE
    return built


def test_fp32(component: Built) -> None:
    context = component.context("fp32")
    built = build(component.graph, context)
    feed = context.examples(3)
    stand_in = built.path.with_name(built.metadata["graph"])
    np.testing.assert_allclose(answers(stand_in, feed), answers(component.graph.path, feed), rtol=1e-4, atol=1e-4)


def test_fp16_is_close_although_every_result_is_rounded(component: Built) -> None:
    context = component.context("fp16")
    built = build(component.graph, context, precision="fp16")
    feed = context.examples(16)
    stand_in = built.path.with_name(built.metadata["graph"])
    found, wanted = answers(stand_in, feed), answers(component.graph.path, feed)
    assert np.abs(found - wanted).max() > 0, "nothing was rounded: the stand-in does not emulate FP16"
    assert cosine(found, wanted) > 0.9999


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_int8(component: Built, precision: str) -> None:
    context = component.context(f"int8_{precision}")
    quantizer = quantize.METHODS["static"]
    options = quantizer.Options(samples=48, batch_size=16, exclude=FLOAT_NODES.get(context.component, ()))
    quantized = quantizer.run(component.graph, options, component.context("quantize"))
    operators = {node.op_type for node in onnx.load(quantized.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    built = build(quantized, context, precision=precision)
    feed = context.examples(16)
    stand_in = built.path.with_name(built.metadata["graph"])
    assert cosine(answers(stand_in, feed), answers(component.graph.path, feed)) > 0.99

"""Ensembles to stage, made by hand and by hypothesis."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import (
    DynamicBatching,
    InstanceGroup,
    LatestVersions,
    Serving,
    SpecificVersions,
    Warmup,
)

IMAGE = TensorSpec("image", "UINT8", (8, 8))
AUDIO = TensorSpec("audio", "FP32", (4000,))


def artifact(folder: Path, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Artifact:
    """Write a file that stands for an engine: nothing in the configuration depends on its bytes."""
    path = folder / name / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode() * 100)
    return Artifact("onnxruntime", path, "", inputs, outputs, "test")


def three_components(folder: Path) -> ServedEnsemble:
    """Two encoders and a fusion head, with every serving option somewhere."""
    labels = folder / "digits.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("".join(f"{digit}\n" for digit in range(10)))
    embedding = TensorSpec("embedding", "FP32", (32,))
    image = ServedComponent(
        name="image_encoder", backend="onnxruntime", filename="model.onnx",
        artifact=artifact(folder, "image", (TensorSpec("pixels", "UINT8", (8, 8)),), (embedding,)),
        inputs={"pixels": "image"}, outputs={"embedding": "image_embedding"},
        serving=Serving(
            max_batch_size=32,
            dynamic_batching=DynamicBatching(
                preferred_batch_size=(8, 16), max_queue_delay_us=500, timeout_us=10_000,
                timeout_action="delay",
            ),
            instance_group=InstanceGroup(count=2, kind="cpu"), warmup=True, response_cache=True,
        ),
        parameters={"intra_op_thread_count": "1", "session.intra_op.allow_spinning": "0"},
    )  # fmt: skip
    audio = ServedComponent(
        name="audio_encoder", backend="onnxruntime", filename="model.onnx",
        artifact=artifact(folder, "audio", (TensorSpec("waveform", "FP32", (4000,)),), (embedding,)),
        inputs={"waveform": "audio"}, outputs={"embedding": "audio_embedding"},
        serving=Serving(max_batch_size=16, version_policy=LatestVersions(latest=2)),
        parameters={"optimization.graph.level": "1"}, input_rules={"waveform": {"finite": True}},
    )  # fmt: skip
    fusion = ServedComponent(
        name="fusion", backend="tensorrt", filename="model.plan",
        artifact=artifact(
            folder, "fusion", (TensorSpec("image", "FP32", (32,)), TensorSpec("audio", "FP32", (32,))),
            (TensorSpec("logits", "FP32", (10,)), TensorSpec("confidence", "FP32", ())),
        ),
        inputs={"image": "image_embedding", "audio": "audio_embedding"},
        outputs={"logits": "logits", "confidence": "confidence"},
        serving=Serving(
            max_batch_size=16, instance_group=InstanceGroup(kind="gpu", gpus=(0, 1)),
            warmup=Warmup(batch_sizes=(4,), data="zero", count=3),
            version_policy=SpecificVersions(specific=(3,)),
        ),
        labels={"logits": labels}, version=3,
    )  # fmt: skip
    outputs = (TensorSpec("logits", "FP32", (10,)), TensorSpec("confidence", "FP32", ()))
    return ServedEnsemble("spoken_digits", (IMAGE, AUDIO), outputs, (image, audio, fusion), response_cache=True)


DTYPES = st.sampled_from(["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64"])
SHAPES = st.lists(st.integers(1, 6) | st.just(-1), max_size=3).map(tuple)


@st.composite
def servings(draw: st.DrawFn) -> Serving:
    largest = draw(st.integers(0, 64))
    sizes = st.lists(st.integers(1, max(1, largest)), max_size=3).map(tuple)
    batching = DynamicBatching(
        preferred_batch_size=draw(sizes),
        max_queue_delay_us=draw(st.integers(0, 10**6)),
        timeout_us=draw(st.integers(0, 10**6)),
        timeout_action=draw(st.sampled_from(["reject", "delay"])),
    )
    warmup = Warmup(batch_sizes=draw(sizes), data=draw(st.sampled_from(["sample", "zero"])))
    return Serving(
        max_batch_size=largest,
        dynamic_batching=draw(st.none() | st.just(batching)) if largest else None,
        instance_group=draw(
            st.none() | st.builds(InstanceGroup, count=st.integers(1, 4), kind=st.sampled_from(["auto", "cpu"]))
        ),
        warmup=draw(st.booleans() | st.just(warmup)),
        response_cache=draw(st.booleans()),
        version_policy=draw(st.sampled_from([None, "all", LatestVersions(latest=1), SpecificVersions(specific=(1,))])),
    )


@st.composite
def ensembles(draw: st.DrawFn, folder: Path) -> ServedEnsemble:
    """Draw a graph of components: each takes tensors that are there already and writes new ones."""
    inputs = [TensorSpec(f"in{index}", draw(DTYPES), draw(SHAPES)) for index in range(draw(st.integers(1, 3)))]
    tensors, used, components = list(inputs), set[str](), []
    for index in range(draw(st.integers(1, 5))):
        unused = [spec for spec in inputs if spec.name not in used]
        taken = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3, unique_by=lambda spec: spec.name))
        if index == 0:  # every input of the ensemble is used by some step
            taken = unused
        used.update(spec.name for spec in taken)
        written = [
            TensorSpec(f"t{index}_{side}", draw(DTYPES), draw(SHAPES)) for side in range(draw(st.integers(1, 2)))
        ]
        tensors += written
        own_inputs = tuple(TensorSpec(f"x{n}", spec.dtype, spec.shape) for n, spec in enumerate(taken))
        own_outputs = tuple(TensorSpec(f"y{n}", spec.dtype, spec.shape) for n, spec in enumerate(written))
        components.append(
            ServedComponent(
                name=f"step{index}", backend="onnxruntime", filename="model.onnx",
                artifact=artifact(folder, f"step{index}", own_inputs, own_outputs),
                inputs={f"x{n}": spec.name for n, spec in enumerate(taken)},
                outputs={f"y{n}": spec.name for n, spec in enumerate(written)},
                serving=draw(servings()),
                parameters=draw(st.dictionaries(st.text(min_size=1), st.text(), max_size=2)),
                input_rules=draw(st.dictionaries(st.sampled_from(["x0"]), st.just({"min": 0.5}), max_size=1)),
            )
        )  # fmt: skip
    outputs = [spec for spec in tensors if spec.name not in used]
    order = draw(st.permutations(components))
    return ServedEnsemble("drawn", tuple(inputs), tuple(outputs), tuple(order), draw(st.booleans()))

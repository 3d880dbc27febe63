"""A small real ensemble (NumPy functions wired in process) and the evidence that gates ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from set_costs import SteppedClock, TimedDeployment

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Array, Evidence, FeedDict, Runner, WiredComponent
from mmdeploy.core.target import Hardware
from mmdeploy.gates.in_process import InProcessDeployment

__all__ = ["SteppedClock", "TimedDeployment"]

SAMPLES, CLASSES = 96, 6
HARDWARE = Hardware("Acme Turbo 9000 CPU", 2, ("avx2",), 2**33, ("NVIDIA Test H100",))

COMPONENTS = (
    WiredComponent("image_encoder", {"pixels": "image"}, {"embedding": "image_embedding"}),
    WiredComponent("audio_encoder", {"waveform": "audio"}, {"embedding": "audio_embedding", "energy": "energy"}),
    WiredComponent("fusion", {"image": "image_embedding", "audio": "audio_embedding"}, {"logits": "logits"}),
)

_WEIGHTS = np.random.default_rng(7)
_IMAGE, _AUDIO = _WEIGHTS.normal(size=(12, 8)), _WEIGHTS.normal(size=(20, 8))
_FUSION = _WEIGHTS.normal(size=(16, CLASSES))


def _product(rows: Array, weights: Array) -> Array:
    """Multiply row by row: a BLAS may sum in another order for another number of rows."""
    return np.stack([np.sum(row[:, None] * weights.astype(np.float32), axis=0) for row in rows])


def image_encoder(pixels: Array) -> dict[str, Array]:
    return {"embedding": _product(np.tanh(pixels.astype(np.float32) / 128 - 1), _IMAGE)}


def audio_encoder(waveform: Array) -> dict[str, Array]:
    energy = np.square(waveform).mean(axis=-1, keepdims=True)
    return {"embedding": _product(np.tanh(waveform), _AUDIO), "energy": energy}


def fusion(image: Array, audio: Array) -> dict[str, Array]:
    return {"logits": _product(np.concatenate([image, audio], axis=-1), _FUSION)}


FUNCTIONS: dict[str, Callable[..., dict[str, Array]]] = {
    "image_encoder": image_encoder, "audio_encoder": audio_encoder, "fusion": fusion,
}  # fmt: skip
SPECS = {
    "image_encoder": ([TensorSpec("pixels", "UINT8", (12,))], [TensorSpec("embedding", "FP32", (8,))]),
    "audio_encoder": (
        [TensorSpec("waveform", "FP32", (20,))],
        [TensorSpec("embedding", "FP32", (8,)), TensorSpec("energy", "FP32", (1,))],
    ),
    "fusion": (
        [TensorSpec("image", "FP32", (8,)), TensorSpec("audio", "FP32", (8,))],
        [TensorSpec("logits", "FP32", (CLASSES,))],
    ),
}


class FunctionRunner:
    """A runner that answers with a function of NumPy arrays."""

    def __init__(self, function: Callable[..., dict[str, Array]], inputs: list, outputs: list) -> None:
        self._function = function
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        return dict(self._function(**feed_dict))

    def close(self) -> None:
        pass


def deployment(
    changed: Mapping[str, Callable[..., dict[str, Array]]] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> InProcessDeployment:
    """Wire the ensemble, with some components answering differently."""
    functions = FUNCTIONS | dict(changed or {})
    openers: dict[str, Callable[[], Runner]] = {
        name: lambda name=name, function=function: FunctionRunner(function, *SPECS[name])  # type: ignore[misc]
        for name, function in functions.items()
    }
    default = {"image_encoder": 1000, "audio_encoder": 2000, "fusion": 1000}
    return InProcessDeployment(COMPONENTS, openers, ("logits",), sizes or default)


def evidence(**changes: object) -> Evidence:
    """Evidence on which the candidate equals the original; ``changes`` replace fields."""
    rng = np.random.default_rng(3)
    feeds = {
        "image": rng.integers(0, 256, size=(SAMPLES, 12)).astype(np.uint8),
        "audio": rng.normal(size=(SAMPLES, 20)).astype(np.float32),
    }
    image, audio = image_encoder(feeds["image"]), audio_encoder(feeds["audio"])
    logits = fusion(image["embedding"], audio["embedding"])["logits"]
    labels = logits.argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % CLASSES  # the original is wrong on ten samples
    fields: dict[str, object] = {
        "candidate": deployment(), "reference": deployment(), "components": COMPONENTS,
        "ensemble_outputs": ("logits",), "feeds": feeds, "labels": labels,
        "original": {
            "image_embedding": image["embedding"], "audio_embedding": audio["embedding"],
            "energy": audio["energy"], "logits": logits,
        },
        "hardware": HARDWARE, "max_batch_size": 16, "cores": 2,
    }  # fmt: skip
    return Evidence(**(fields | changes))  # type: ignore[arg-type]

"""What a step of quantization-aware training costs beside a step of plain training.

    python benchmarks/qat_step.py [--steps 12] [--threads 1] [--batch-size 32]

The components of spoken_digits are trained on their own (a squared error on random targets, so that nothing but the
component is timed): plain, with modelopt's fake quantizers and fixed scales, and with learned scales. The three take
turns step by step, so that a busy machine slows all alike; the ratio is that of medians, its interval from a bootstrap
over steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.facts import as_metadata
from mmdeploy.model.torch_component import ComponentFacts, load_component
from mmdeploy.quantize import qat_layers, qat_modelopt

RECIPE = Path(__file__).parent.parent / "recipes" / "spoken_digits"
KINDS = ("plain", "fixed scales", "learned scales")
INPUTS = {
    "image_encoder": {"pixels": (8, 8)},
    "audio_encoder": {"waveform": (4000,)},
    "fusion": {"image": (17, 192), "audio": (25, 192)},
}


def main() -> None:
    """Time the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    started = time.perf_counter()
    import modelopt.torch.quantization  # noqa: F401

    imported_seconds = time.perf_counter() - started
    torch.set_num_threads(given.threads)
    print(f"{given.batch_size} samples a step, {given.threads} thread(s), {given.steps} steps each, torch "
          f"{torch.__version__}; importing modelopt after torch took {imported_seconds:.1f} s\n")  # fmt: skip
    print("| component | layers | plain ms | fixed scales | learned scales |\n|---|---|---|---|---|")
    for name in INPUTS:
        layers, seconds = measure(name, steps=given.steps, batch_size=given.batch_size)
        ratios = " | ".join(shown(seconds[kind], seconds["plain"]) for kind in KINDS[1:])
        print(f"| {name} | {layers} | {1e3 * np.median(seconds['plain']):.1f} | {ratios} |")


def measure(name: str, *, steps: int, batch_size: int) -> tuple[int, dict[str, np.ndarray]]:
    """Return the number of quantized layers, and seconds a step of each kind."""
    generator = torch.Generator().manual_seed(0)
    feed = {key: torch.randn(batch_size, *shape, generator=generator) for key, shape in INPUTS[name].items()}
    if "pixels" in feed:
        feed["pixels"] = (feed["pixels"] * 60 + 128).clamp(0, 255).to(torch.uint8)
    prepared = {kind: prepare(name, kind, feed) for kind in KINDS}
    run = {kind: stepper(made.module, feed) for kind, made in prepared.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for step in range(steps + 2):
        for kind in KINDS[step % 3 :] + KINDS[: step % 3]:
            started = time.perf_counter()
            run[kind]()
            if step >= 2:  # the first allocate
                seconds[kind].append(time.perf_counter() - started)
    return len(prepared["fixed scales"].layers), {kind: np.array(values) for kind, values in seconds.items()}


def prepare(name: str, kind: str, feed: dict[str, Tensor]) -> qat_layers.Prepared:
    """Load a component and give it quantizers, as the pass does."""
    facts = ComponentFacts("model.py:build", RECIPE, Path("weights.safetensors"), name, tuple(feed), ("output",))
    artifact = Artifact("torch", RECIPE / "model.py", "", (), (), "recipe", as_metadata(facts))

    def forward(module: nn.Module) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"output": module(**feed)}

    prepared = qat_layers.prepare(lambda: load_component(artifact), forward)
    if kind == "plain":
        return prepared
    modules = [prepared.module.get_submodule(layer.name) for layer in prepared.layers]
    rounded = [layer.operators == ("Conv",) for layer in prepared.layers]
    qat_modelopt.insert(modules, per_channel=True, rounded=rounded, run=lambda: forward(prepared.module) and None)
    if kind == "learned scales":
        qat_modelopt.learn(modules, inputs=prepared.shared, weights=())
    return prepared


def stepper(module: nn.Module, feed: dict[str, Tensor]) -> Callable[[], None]:
    """Return a function that does one step of AdamW."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    with torch.no_grad():
        target = torch.randn_like(module(**feed))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(module(**feed), target).backward()
        optimizer.step()

    return step


def shown(seconds: np.ndarray, plain: np.ndarray) -> str:
    """Return the ratio of medians with its 95 % interval."""
    random = np.random.default_rng(0)
    draws = random.integers(len(plain), size=(2000, len(plain)))  # a step's kinds were timed together: paired
    ratios = np.median(seconds[draws], axis=1) / np.median(plain[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return f"{np.median(seconds) / np.median(plain):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())

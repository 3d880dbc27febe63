"""Time of a training step of mmdeploy against a loop over PyTorch written by hand, as a ratio.

Run it as ``python benchmarks/training_overhead.py [--rounds N] [--json FILE]``. Trained is one component of
``recipes/spoken_digits`` inside its frozen model, in batches of 32 on one thread, with the task's loss or with both
losses (the original model answers every batch too). By hand means what one would write in a notebook: a DataLoader
over a TensorDataset, AdamW, clipping, nothing else: no masks, no check of the loss, no seeds. The variants take turns
in one process; of each round the median step counts, and the ratio is that to the baseline of the same round.

Another way of training is one entry more in `VARIANTS`: a function that takes a `Ground` and the losses to use, trains
one epoch, and returns the seconds of each step.

Seconds are of the processor, which on one thread are those of a quiet machine's clock, also when this one is not quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from mmdeploy.core.contracts import Encoding, StepContext, no_progress
from mmdeploy.data.recording import Request, record
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.model import torch_model
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions
from mmdeploy.worker.feeds import ensemble_inputs
from mmdeploy.worker.training_setup import HeldOut, RecipeTrainingSetup

RECIPE = Path(__file__).parents[1] / "recipes" / "spoken_digits" / "recipe.yaml"
SPLITS = ["data.training=data.py:training", "data.validation=data.py:validation"]
BATCH, STEPS = 32, 20
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Ground:
    """What every variant trains on.

    Attributes:
        setup: The component's training setup.
        component: Name of the component.
        whole: Makes the whole model anew.
        feeds: The training split, by ensemble input, STEPS batches of it.
        labels: Its labels.
    """

    setup: RecipeTrainingSetup
    component: str
    whole: Callable[[], nn.Module]
    feeds: Mapping[str, Tensor]
    labels: Tensor


def by_hand(ground: Ground, losses: str) -> list[float]:
    """Train as one would in a notebook."""
    model, teacher = ground.whole(), ground.whole().requires_grad_(False)
    model.requires_grad_(False)
    trained = model.get_submodule(ground.component).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4)
    dataset = TensorDataset(ground.feeds["image"], ground.feeds["audio"], ground.labels)
    seconds = []
    before = time.process_time()
    for image, audio, labels in DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
        optimizer.zero_grad(set_to_none=True)
        tokens, logits = answers(model, image, audio, ground.component)
        loss = functional.cross_entropy(logits, labels)
        if losses == "both":
            with torch.no_grad():
                wanted_tokens, wanted = answers(teacher, image, audio, ground.component)
            given, target = (functional.log_softmax(scores / TEMPERATURE, dim=1) for scores in (logits, wanted))
            loss = loss + TEMPERATURE**2 * functional.kl_div(given, target, reduction="batchmean", log_target=True)
            error = (tokens - wanted_tokens).flatten(1).square().sum(1)
            loss = loss + (error / wanted_tokens.flatten(1).square().sum(1)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        now = time.process_time()
        seconds.append(now - before)
        before = now
    return seconds


def answers(model: nn.Module, image: Tensor, audio: Tensor, component: str) -> tuple[Tensor, Tensor]:
    """Return what the component and the whole model answer."""
    tokens = {"image_encoder": model.image_encoder(image), "audio_encoder": model.audio_encoder(audio)}
    logits = model.fusion(image=tokens["image_encoder"], audio=tokens["audio_encoder"])
    return tokens[component], logits


def mmdeploy_fit(ground: Ground, losses: str) -> list[float]:
    """Train with `mmdeploy.training.loop.fit`."""
    seconds: list[float] = []
    before = 0.0

    def after_step(step: int) -> None:
        nonlocal before
        now = time.process_time()
        seconds.append(now - before)
        before = now

    module = ground.whole().get_submodule(ground.component)
    options = TrainingOptions(epochs=1, batch_size=BATCH, loss=losses, temperature=TEMPERATURE)
    with tempfile.TemporaryDirectory() as folder:
        context = StepContext(
            component=ground.component, workdir=Path(folder), target=load_recipe(RECIPE).target,
            encoding=Encoding.INT8_SYMMETRIC, max_batch_size=BATCH, seed=0, threads=1, examples=lambda _: {},
            scratch=Path(folder) / "scratch", training=Subset(ground),
        )  # fmt: skip
        fit(module, options, context, after_step=after_step)
    return seconds[1:]  # the first holds the judging of epoch 0


class Subset(RecipeTrainingSetup):
    """The recipe's own setup, but for the length of an epoch, and of validation, which is not what is timed."""

    def __init__(self, ground: Ground) -> None:
        vars(self).update(vars(ground.setup))

    def training(self, epoch, batch_size):  # noqa: ANN001, ANN201
        """Iterate over the first STEPS batches."""
        for number, batch in enumerate(super().training(epoch, batch_size)):
            if number == STEPS:
                return
            yield batch

    def validation(self):  # noqa: ANN201
        """Return 64 samples."""
        feeds, labels = super().validation()
        return {name: array[:64] for name, array in feeds.items()}, labels[:64]


#: By name; the first is what the others are compared with.
VARIANTS: dict[str, Callable[[Ground, str], list[float]]] = {"by hand": by_hand, "mmdeploy": mmdeploy_fit}


def prepared(component: str) -> Ground:
    """Read the data and set the model up."""
    recipe = load_recipe(RECIPE, SPLITS)
    setup = RecipeTrainingSetup(recipe, component, held_out(recipe), {})
    feeds: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    for number, (batch, wanted) in enumerate(setup.training(0, BATCH)):
        if number == STEPS:
            break
        labels.append(torch.from_numpy(wanted))
        for name, array in batch.items():
            feeds.setdefault(name, []).append(torch.from_numpy(array))

    def whole() -> nn.Module:
        return torch_model.load_model(recipe.model.factory, root=recipe.root, weights=recipe.model.weights)

    return Ground(setup, component, whole, {name: torch.cat(parts) for name, parts in feeds.items()}, torch.cat(labels))


def held_out(recipe: Recipe) -> HeldOut:
    """Record the splits that training is judged by, as a build does."""
    specs, ranges = ensemble_inputs(recipe)
    found = []
    for reference in (str(recipe.data.validation), str(recipe.data.evaluation)):
        with tempfile.TemporaryDirectory() as folder:  # the mapping keeps the files after they are gone
            record(Request(reference, recipe.root, specs, ranges), Path(folder), no_progress)
            found.append(SampleSet.open(Path(folder), reference))
    return HeldOut(*found)


def measure(ground: Ground, losses: str, rounds: int) -> dict[str, dict[str, float]]:
    """Let the variants take turns, their order reversed in every other round."""
    medians: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for variant in VARIANTS.values():  # the first run of each loads and compiles
        variant(ground, losses)
    for number in range(rounds):
        for name in list(VARIANTS)[:: -1 if number % 2 else 1]:
            medians[name].append(statistics.median(VARIANTS[name](ground, losses)))
    baseline = medians[next(iter(VARIANTS))]
    figures = {}
    for name, values in medians.items():
        ratios = sorted(value / base for value, base in zip(values, baseline, strict=True))
        figures[name] = {
            "step_ms": 1e3 * statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_lowest": ratios[0],
            "ratio_highest": ratios[-1],
        }
    return figures


def main() -> None:
    """Measure every component and loss, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--components", nargs="+", default=["image_encoder", "audio_encoder"])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    print(f"{'component, loss':<26}{'variant':<12}{'ms a step':>10}{'ratio':>8}   lowest to highest of the rounds")
    for component in arguments.components:
        ground = prepared(component)
        for losses in ("task", "both"):
            figures = measure(ground, losses, arguments.rounds)
            results.setdefault(component, {})[losses] = figures
            for name, figure in figures.items():
                span = f"{figure['ratio_lowest']:.2f} to {figure['ratio_highest']:.2f}"
                label = f"{component}, {losses}"
                print(f"{label:<26}{name:<12}{figure['step_ms']:>10.2f}{figure['ratio']:>8.3f}   {span}", flush=True)
    if arguments.json:
        facts = {
            "batch": BATCH, "steps": STEPS, "rounds": arguments.rounds, "torch": torch.__version__,
            "machine": platform.machine(), "load": os.getloadavg(),
        }  # fmt: skip
        arguments.json.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

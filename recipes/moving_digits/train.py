"""Train the network of this recipe, or measure it.

    python recipes/moving_digits/train.py               # some minutes on one core; writes weights.safetensors
    python recipes/moving_digits/train.py --evaluate    # the tables of README.md, from the committed weights

All is trained together, on frames that `sample_frames` took of the same MP4 files that clients send. Three scenes in
ten lose their sound, drawn anew in each epoch. What is remembered after a part of the frames is classified too, so that
the answer is of use before the clip has ended. A head on each encoder gives the digit from one modality alone: the
baselines of the tables, kept in `heads.safetensors` and not deployed.

The epoch that is best on the validation split is kept; the test split is only ever measured. Weights are stored in
FP16.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from data import Scenes, mp4, scenes
from model import DIGITS, FRAMES, MEMORY, SIDE, WIDTH, MovingDigits, build
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdeploy.preprocess import SampleFrames

FOLDER = Path(__file__).parent
WEIGHTS, HEADS = FOLDER / "weights.safetensors", FOLDER / "heads.safetensors"
SEED = 4
SCENES = 6000
EPOCHS = 14
BATCH = 64
PEAK_LEARNING_RATE = 3e-3
SILENT_SHARE = 0.3


class Tensors(NamedTuple):
    """Scenes as the network takes them."""

    frames: Tensor  # UINT8 [N, 8, 32, 32, 3]
    sounds: Tensor  # FP32 [N, 4000]
    actions: Tensor  # INT64 [N]
    digits: Tensor  # INT64 [N]


def tensors(made: Scenes) -> Tensors:
    """Write each film as a file, and take its frames as the served step does."""
    step = SampleFrames(size=(SIDE, SIDE), frames=FRAMES, layout="THWC")
    frames = np.stack([step.row({"data": mp4(film)})["frames"] for film in made.films])
    return Tensors(*(torch.from_numpy(one) for one in (frames, made.sounds, made.actions, made.digits)))


def heads() -> nn.ModuleDict:
    """Make the heads that are not deployed: the digit from one modality alone."""
    return nn.ModuleDict({"seen": nn.Linear(MEMORY, DIGITS), "heard": nn.Linear(WIDTH, DIGITS)})


def loss_of(network: MovingDigits, alone: nn.ModuleDict, batch: Tensors) -> Tensor:
    """Sum the cross-entropies after all frames, after some, and of the heads."""
    score = nn.functional.cross_entropy
    features, heard = network.frame_encoder(batch.frames), network.audio_encoder(batch.sounds)
    remembered, there = network.memory.gru(features)[0], torch.rand(len(heard), 1) >= SILENT_SHARE
    losses = [score(alone["seen"](remembered[:, -1]), batch.digits), score(alone["heard"](heard), batch.digits)]
    for place, weight in ((-1, 1.0), (int(torch.randint(2, FRAMES - 1, ())), 0.4)):
        action, digit = network.fusion(remembered[:, place], heard * there, there)
        losses += [weight * score(action, batch.actions), weight * score(digit, batch.digits)]
    return torch.stack(losses).sum()


@torch.no_grad()
def predicted(network: MovingDigits, alone: nn.ModuleDict, made: Tensors) -> dict[str, Tensor]:
    """Return the classes [N] that each way gives: with the sound and without, by one modality, by one frame."""
    found: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(made.digits)).split(250):
        features, heard = network.frame_encoder(made.frames[rows]), network.audio_encoder(made.sounds[rows])
        seen, there = network.memory(features), torch.ones(len(rows), 1, dtype=torch.bool)
        action, digit = network.fusion(seen, heard, there)
        still = network.memory(features[:, FRAMES // 2 :][:, :1].expand(-1, FRAMES, -1))
        half = network.fusion(network.memory(features[:, : FRAMES // 2]), heard, there)
        scores = {
            "action": action,
            "digit": digit,
            "action after half": half[0],
            "digit after half": half[1],
            "digit without sound": network.fusion(seen, heard * 0, ~there)[1],
            "action of one frame": network.fusion(still, heard, there)[0],
            "digit seen": alone["seen"](seen),
            "digit heard": alone["heard"](heard),
        }
        for name, one in scores.items():
            found.setdefault(name, []).append(one.argmax(dim=1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def accuracies(network: MovingDigits, alone: nn.ModuleDict, made: Tensors) -> dict[str, float]:
    """Return the share that is right, by way."""
    network.eval()
    found = predicted(network, alone, made)
    right = {name: one == (made.actions if name.startswith("action") else made.digits) for name, one in found.items()}
    return {name: one.float().mean().item() for name, one in right.items()}


def train() -> tuple[MovingDigits, nn.ModuleDict]:
    """Train from scratch; returns the network and the heads of the best epoch."""
    torch.manual_seed(SEED)
    network, alone = build(), heads()
    trained = nn.ModuleList([network, alone])
    made, held_out = tensors(scenes("train", SCENES)), tensors(scenes("validation", 600))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.03)
    steps = EPOCHS * -(-SCENES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    best, best_score = copy.deepcopy(trained.state_dict()), -1.0
    for epoch in range(EPOCHS):
        started = time.monotonic()
        trained.train()
        for rows in torch.randperm(SCENES).split(BATCH):
            optimizer.zero_grad()
            loss_of(network, alone, Tensors(*(one[rows] for one in made))).backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        measured = accuracies(network, alone, held_out)
        shown = "  ".join(f"{name} {score:.3f}" for name, score in measured.items())
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  {shown}", flush=True)
        if (score := measured["action"] + measured["digit"] + measured["digit without sound"]) > best_score:
            best, best_score = copy.deepcopy(trained.state_dict()), score
    trained.load_state_dict(best)
    return network, alone


def simple(made: Tensors) -> dict[str, np.ndarray]:
    """Return hand-made features.

    Of frames: where ink is in each, how far it spreads and how it is tilted. Of the middle frame: its ink around its
    centre. Of the sound: bands in six pieces.
    """
    grey = made.frames.float().mean(dim=-1)
    ink = (grey - grey.flatten(2).median(dim=2).values[..., None, None]).abs()
    ink = (ink - 0.3 * ink.amax(dim=(2, 3), keepdim=True)).clamp(min=0)
    ink = ink / ink.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    x, y = (ink.sum(dim=2) * axis).sum(dim=2), (ink.sum(dim=3) * axis).sum(dim=2)
    right, down = axis - x[..., None, None], axis[:, None] - y[..., None, None]
    xx, yy, xy = ((ink * part).sum(dim=(2, 3)) for part in (right**2, down**2, right * down))
    tilt = torch.atan2(2 * xy, xx - yy)
    moments = torch.cat([x, y, (xx + yy).clamp(min=1e-3).log(), tilt.cos(), tilt.sin()], dim=1)
    middle = FRAMES // 2
    shifts = zip(ink[:, middle], y[:, middle].round().int().tolist(), x[:, middle].round().int().tolist(), strict=True)
    centred = torch.stack([one.roll((-rows, -columns), (0, 1)) for one, rows, columns in shifts])
    drawn = nn.functional.avg_pool2d(centred[:, None, 4:28, 4:28], 2).flatten(1)
    power = build().audio_encoder.spectrogram(made.sounds)
    bands = nn.functional.avg_pool1d(power.transpose(1, 2), power.shape[1] // 6).flatten(1)
    return {"frames": moments.numpy(), "middle frame": drawn.numpy(), "sound": bands.detach().numpy()}


def evaluate() -> None:
    """Print figures of the test split, beside logistic regression on hand-made features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network, alone = build(), heads()
    network.load_state_dict(load_file(WEIGHTS))
    alone.load_state_dict({name: one.float() for name, one in load_file(HEADS).items()})
    test, learned = tensors(scenes("test", 1000)), tensors(scenes("train", SCENES))
    for name, score in accuracies(network, alone, test).items():
        print(f"{name:24s} {score:.3f}", flush=True)
    fitted, judged = simple(learned), simple(test)
    for name, label in (
        ("frames", "actions"),
        ("middle frame", "actions"),
        ("middle frame", "digits"),
        ("sound", "digits"),
    ):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
        model.fit(fitted[name], getattr(learned, label).numpy())
        right = model.predict(judged[name]) == getattr(test, label).numpy()
        print(f"logistic regression, {name}: {label} {right.mean():.3f}", flush=True)


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(1)
    if not parser.parse_args().evaluate:
        for module, path in zip(train(), (WEIGHTS, HEADS), strict=True):
            state = module.state_dict()
            save_file({name: one.half() if one.is_floating_point() else one for name, one in state.items()}, path)
    evaluate()


if __name__ == "__main__":
    main()

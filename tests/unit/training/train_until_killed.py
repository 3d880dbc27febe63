"""A program that trains, and that the kernel may kill on the way: FOLDER and the step to die after (0 for never)."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import tiny_setup
import torch
from safetensors.torch import save_file
from torch import nn

from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions


class Augmented(tiny_setup.TinySetup):
    """Draws noise from the global generators of NumPy and PyTorch, as data callables do."""

    def training(self, epoch, batch_size):
        for feeds, labels in super().training(epoch, batch_size):
            noise = torch.randn(feeds["values"].shape).numpy() + np.random.standard_normal(feeds["values"].shape)
            yield {"values": feeds["values"] + 0.05 * noise.astype(np.float32)}, labels


def main(folder: Path, last_step: int) -> None:
    """Train four epochs with dropout and batch normalization, and save the weights."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8))
    context = tiny_setup.context(Augmented(), folder, scratch=folder / "scratch")
    done = []

    def after_step(step: int) -> None:
        done.append(step)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    options = TrainingOptions(epochs=4, batch_size=16, learning_rate=1e-2, patience=None)
    record = fit(module, options, context, after_step=after_step, checkpoint_seconds=0)
    save_file(dict(module.state_dict()), folder / "weights.safetensors")
    epochs = [(epoch.epoch, epoch.metric, epoch.validation_loss, epoch.training_loss) for epoch in record.epochs]
    (folder / "epochs.txt").write_text(repr(epochs))
    (folder / "first_step.txt").write_text(str(done[0] if done else None))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Train the network of this recipe, or measure it.

    python recipes/spoken_digits/train.py               # ten minutes on one core; writes both weight files
    python recipes/spoken_digits/train.py --evaluate    # the table of README.md, from the committed weights

One run trains everything together: the fused classifier, and one linear head on the mean token of each
encoder. The heads make the encoders useful on their own and are the single-modality baselines; they are kept
in `heads.safetensors` and are not deployed. In a tenth of the pairs the image is blank, in another tenth the
recording is digital silence, so that the network still answers a client who has only one of the two.

Every epoch damages the clean training data anew. The epoch with the best accuracy on the validation split is
kept; the test split is only ever measured. Training computes in BF16 where autocast allows it (quick on a
processor with AMX); accuracy is measured in FP32. The weights are stored in FP16, which halves the file, and
loaded into an FP32 network.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from data import Pairs, pairs
from model import CLASSES, WIDTH, SpokenDigits, build
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"
HEADS = FOLDER / "heads.safetensors"
SEED = 7
EPOCHS = 30
PAIRS_PER_EPOCH = 4096
BATCH = 128
PEAK_LEARNING_RATE = 1e-3
WARM_UP_EPOCHS = 3
WEIGHT_DECAY = 0.05
BLANK_SHARE = 0.1  # of the pairs, for each modality
THREADS = 1


class Trainee(nn.Module):
    """The network and the two single-modality heads that are trained with it."""

    def __init__(self) -> None:
        super().__init__()
        self.network: SpokenDigits = build()
        self.heads = nn.ModuleDict({"image": nn.Linear(WIDTH, CLASSES), "audio": nn.Linear(WIDTH, CLASSES)})

    def forward(self, images: Tensor, waveforms: Tensor) -> dict[str, Tensor]:
        """Classify from both modalities and from each alone.

        Args:
            images: UINT8 [N, 8, 8].
            waveforms: FP32 [N, 4000].

        Returns:
            Logits [N, 10] under `both`, `image` and `audio`.
        """
        seen, heard = self.network.image_encoder(images), self.network.audio_encoder(waveforms)
        return {
            "both": self.network.fusion(seen, heard),
            "image": self.heads["image"](seen.mean(dim=1)),
            "audio": self.heads["audio"](heard.mean(dim=1)),
        }


def batches(batch: Pairs, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut pairs into batches of images, waveforms and labels."""
    tensors = [torch.from_numpy(array) for array in batch]
    yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)


def loss_of(trainee: Trainee, images: Tensor, waveforms: Tensor, labels: Tensor) -> Tensor:
    """Blank some inputs, then sum the cross-entropies of the fused classifier and both heads.

    A head learns nothing from an input that was blanked.
    """
    lot = torch.rand(len(labels))
    blind, deaf = lot < BLANK_SHARE, lot > 1.0 - BLANK_SHARE
    logits = trainee(images * ~blind[:, None, None], waveforms * ~deaf[:, None])
    targets = {
        "both": labels,
        "image": labels.masked_fill(blind, -100),
        "audio": labels.masked_fill(deaf, -100),
    }
    return torch.stack([nn.functional.cross_entropy(logits[name], targets[name]) for name in logits]).sum()


@torch.no_grad()
def accuracies(trainee: Trainee, batch: Pairs) -> dict[str, float]:
    """Measure top-1 accuracy from both modalities, from each alone, and with the other one blanked."""
    trainee.eval()
    hits: dict[str, list[Tensor]] = {}
    for images, waveforms, labels in batches(batch, 256):
        logits = trainee(images, waveforms)
        logits["recording silent"] = trainee(images, torch.zeros_like(waveforms))["both"]
        logits["image blank"] = trainee(torch.zeros_like(images), waveforms)["both"]
        for name, scores in logits.items():
            hits.setdefault(name, []).append(scores.argmax(dim=1) == labels)
    return {name: torch.cat(parts).float().mean().item() for name, parts in hits.items()}


def learning_rate(step: int, steps: int) -> float:
    """Give the share of the peak learning rate: linear warm-up, then a half cosine down to zero."""
    warm_up = WARM_UP_EPOCHS / EPOCHS
    done = step / steps
    return (
        done / warm_up
        if done < warm_up
        else 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1.0 - warm_up))
    )


def train() -> Trainee:
    """Train from scratch.

    Returns:
        The trainee as it was after the epoch that was best on the validation split.
    """
    torch.manual_seed(SEED)
    trainee = Trainee()
    steps = EPOCHS * PAIRS_PER_EPOCH // BATCH
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    held_out, best, best_accuracy = pairs("validation", count=1000, seed=3), trainee.state_dict(), -1.0
    for epoch in range(EPOCHS):
        started = time.monotonic()
        run_epoch(trainee, optimizer, schedule, pairs("train", PAIRS_PER_EPOCH, seed=1000 + epoch))
        measured = accuracies(trainee, held_out)
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  {table_row(measured)}", flush=True)
        if measured["both"] >= best_accuracy:
            best_accuracy, best = measured["both"], {k: v.clone() for k, v in trainee.state_dict().items()}
    trainee.load_state_dict(best)
    return trainee


def run_epoch(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch: Pairs,
) -> None:
    """Take one optimizer step for each batch of the pairs."""
    trainee.train()
    for images, waveforms, labels in batches(batch, BATCH):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(trainee, images, waveforms, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def table_row(measured: dict[str, float]) -> str:
    """Format accuracies in percent on one line."""
    return "  ".join(f"{name} {100.0 * accuracy:.2f}" for name, accuracy in measured.items())


def load_trainee() -> Trainee:
    """Load the committed network and heads."""
    trainee = Trainee()
    trainee.network.load_state_dict(load_file(WEIGHTS))
    trainee.heads.load_state_dict(load_file(HEADS))
    return trainee


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="measure the committed weights on the test split"
    )
    torch.set_num_threads(THREADS)
    if not parser.parse_args().evaluate:
        trainee = train()
        save_file({name: each.half() for name, each in trainee.network.state_dict().items()}, WEIGHTS)
        save_file(trainee.heads.state_dict(), HEADS)
    print("test split:", table_row(accuracies(load_trainee(), pairs("test", count=1600, seed=4))))


if __name__ == "__main__":
    main()

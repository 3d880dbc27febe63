"""Train the network of this recipe, or measure it.

    python recipes/visual_questions/train.py               # three minutes on one core; writes weights.safetensors
    python recipes/visual_questions/train.py --evaluate    # the table of README.md, from the committed weights

Every epoch has new images: what is learned is the task, not a set of pictures. An image is encoded once for its 20
questions. Beside the answer, one head of each asking layer is told where to look: at the object that the question
names, then at the one whose shape is wanted, which the generator knows (supervised attention, as in Gan et al., 2017,
arXiv:1708.04686). Without that, nine epochs did not bring it to find an object by its colour.

The test split is only ever measured; the last epoch is kept. After each epoch `checkpoint.pt` (not committed) is
written, from which a run that was stopped goes on. Weights are stored in FP16.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from data import KINDS, RELATIONAL, Scenes, kind_of, scenes, sentences, split
from model import GRID, LONGEST, VisualQuestions, build
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"
CHECKPOINT = FOLDER / "checkpoint.pt"
SEED = 7
EPOCHS = 8
IMAGES_PER_EPOCH = 6400
BATCH = 32
PEAK_LEARNING_RATE = 1e-3
LOOKING = 0.2  # weight of where a layer looks
PLACE = 16.0  # pixels from one place of the grid to the next
WARM_UP = 0.05  # of all steps
WEIGHT_DECAY = 0.01
THREADS = 1


def tokenized() -> tuple[Tensor, Tensor]:
    """Return ids and mask of all sentences, INT64 [Q, 16] each."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding(length=LONGEST, pad_id=0)
    found = tokenizer.encode_batch(sentences())
    return torch.tensor([one.ids for one in found]), torch.tensor([one.attention_mask for one in found])


def logits_of(network: VisualQuestions, words: tuple[Tensor, Tensor], images: Tensor, questions: Tensor) -> Tensor:
    """Answer 20 questions (index into the sentences, [N, 20]) about each image: logits [N, 20, 10]."""
    return network.fusion.answer(network.image_encoder(images), network.question_encoder(*words)[questions])


def loss_of(network: VisualQuestions, words: tuple[Tensor, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross-entropy of the answers, and of where each layer looks."""
    images, questions, answers, looks = batch
    image, found = network.image_encoder(images), network.question_encoder(*words)[questions]
    column, row = (looks.float() / PLACE).round().long().clamp(max=GRID - 1).unbind(-1)
    loss = torch.zeros(())
    for layer, place in zip(network.fusion.layers, (row * GRID + column).unbind(-1), strict=True):
        scores = layer.attention(found, image)
        loss = loss + LOOKING * nn.functional.cross_entropy(scores.flatten(0, 1), place.flatten())
        found = layer(found, image)
    logits = network.fusion.classifier(found)
    return loss + nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())


def learning_rate(step: int, steps: int) -> float:
    """Give the share of the peak learning rate: linear warm-up, then a half cosine down to zero."""
    done = step / steps
    return done / WARM_UP if done < WARM_UP else 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1.0 - WARM_UP))


@torch.no_grad()
def accuracies(network: VisualQuestions, measured: Scenes) -> dict[str, float]:
    """Measure top-1 accuracy by kind of question, of those about one object and of the relational ones."""
    network.eval()
    images, questions, answers, _ = map(torch.from_numpy, measured)
    words = tokenized()
    parts = [logits_of(network, words, *part) for part in zip(images.split(100), questions.split(100), strict=True)]
    return by_kind(torch.cat(parts).argmax(-1) == answers, measured)


def by_kind(hits: Tensor, measured: Scenes) -> dict[str, float]:
    """Return the share of hits [N, 20] among each kind of question, those about one object and the relational ones."""
    kinds = torch.from_numpy(kind_of(measured.questions))
    found = {name: hits[kinds == number].float().mean().item() for number, name in enumerate(KINDS)}
    groups = {"one object": kinds < RELATIONAL, "relational": kinds >= RELATIONAL}
    return found | {name: hits[rows].float().mean().item() for name, rows in groups.items()}


def guessed(measured: Scenes) -> dict[str, float]:
    """Measure who never looks: the most frequent answer of each kind of question, by 2000 other images."""
    seen = scenes(2000, seed=1)
    kinds = kind_of(seen.questions)
    best = np.array([np.bincount(seen.answers[kinds == kind]).argmax() for kind in range(len(KINDS))])
    return by_kind(torch.from_numpy(best[kind_of(measured.questions)] == measured.answers), measured)


def run_epoch(network: VisualQuestions, optimizer: torch.optim.Optimizer, drawn: Scenes, rates: list[float]) -> float:
    """Take a step for each batch of images, at a learning rate each; return the mean loss."""
    network.train()
    words, losses = tokenized(), []
    batches = zip(*(torch.from_numpy(array).split(BATCH) for array in drawn), strict=True)
    for rate, batch in zip(rates, batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(network, words, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def train() -> VisualQuestions:
    """Train from scratch, or from the checkpoint of a run that was stopped."""
    torch.manual_seed(SEED)
    network, begin = build().to(memory_format=torch.channels_last), 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if CHECKPOINT.exists():
        kept = torch.load(CHECKPOINT, weights_only=True)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        begin = kept["epochs"]
    steps = IMAGES_PER_EPOCH // BATCH
    for epoch in range(begin, EPOCHS):
        started = time.monotonic()
        rates = [
            PEAK_LEARNING_RATE * learning_rate(step, EPOCHS * steps)
            for step in range(epoch * steps + 1, (epoch + 1) * steps + 1)
        ]
        loss = run_epoch(network, optimizer, scenes(IMAGES_PER_EPOCH, seed=1000 + epoch), rates)
        row = table_row(accuracies(network, split("validation")))
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  loss {loss:.4f}  {row}", flush=True)
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        torch.save(state, CHECKPOINT)
    return network


def table_row(measured: dict[str, float]) -> str:
    """Format accuracies in percent on one line."""
    return "  ".join(f"{name} {100.0 * accuracy:.1f}" for name, accuracy in measured.items())


def load_network() -> VisualQuestions:
    """Load the committed network."""
    network = build()
    network.load_state_dict(load_file(WEIGHTS), strict=True)
    return network


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(THREADS)
    if not parser.parse_args().evaluate:
        network = train()
        state = {name: each.contiguous() for name, each in network.state_dict().items()}
        halves = {name: each.half() if each.is_floating_point() else each for name, each in state.items()}
        save_file(halves, WEIGHTS)
        CHECKPOINT.unlink()
    print("network:", table_row(accuracies(load_network(), split("test"))))
    print("guesses:", table_row(guessed(split("test"))))


if __name__ == "__main__":
    main()

"""Train the network of this recipe, or measure it.

    python recipes/moods/train.py               # some minutes on one core; writes the three weight files
    python recipes/moods/train.py --evaluate    # the tables of README.md, from the committed weights

First each encoder is trained by itself, with a linear head: the heads are the single-modality baselines of the tables,
kept in `heads.safetensors` and not deployed. Then the encoders stay as they are, and the fusion is trained on what they
give for people whom they have not seen: once with modality dropout (`weights.safetensors`: of half of the people one or
two modalities are hidden, anew in each epoch) and once without (`without_dropout.safetensors`).

The epoch with the best macro F1 on the validation split is kept; the test split is only ever measured. Weights are
stored in FP16. Training is seeded, and repeats to the bit on the same processor with the same torch.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from baseline import simple_f1
from data import MOODS, People, people
from model import CLASSES, LONGEST_TEXT, WIDTH, Moods, build
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_f1_score

FOLDER = Path(__file__).parent
MODALITIES = ("text", "audio", "video")
WEIGHTS = {True: FOLDER / "weights.safetensors", False: FOLDER / "without_dropout.safetensors"}
HEADS = FOLDER / "heads.safetensors"
SEED = 5
PEOPLE = 3500
EPOCHS = {"text": 6, "audio": 18, "video": 8}
FUSION_EPOCHS = 20
BATCH = 64
PEAK_LEARNING_RATE = 3e-3
HIDDEN_SHARE = 0.5
#: What is there, by what a table calls it.
SUBSETS = {
    "all": (1, 1, 1), "without text": (0, 1, 1), "without audio": (1, 0, 1), "without video": (1, 1, 0),
    "text alone": (1, 0, 0), "audio alone": (0, 1, 0), "video alone": (0, 0, 1),
}  # fmt: skip

#: Rows of a modality's inputs as one batch: all of one length.
Inputs = Callable[[Tensor], tuple[Tensor, ...]]


def inputs_of(made: People) -> tuple[dict[str, Inputs], Tensor]:
    """Return how to take rows of each modality, and the number of samples of each sound [N]."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding(length=LONGEST_TEXT)
    encoded = tokenizer.encode_batch(made.texts)
    ids = torch.tensor([one.ids for one in encoded])
    mask = torch.tensor([one.attention_mask for one in encoded])
    videos = torch.from_numpy(made.videos)
    sounds = [torch.from_numpy(sound) for sound in made.sounds]
    taken: dict[str, Inputs] = {
        "text": lambda rows: (ids[rows], mask[rows]),
        "audio": lambda rows: (torch.stack([sounds[row] for row in rows.tolist()]),),
        "video": lambda rows: (videos[rows],),
    }
    return taken, torch.tensor([len(sound) for sound in sounds])


def batches(lengths: Tensor, size: int, *, shuffled: bool) -> Iterator[Tensor]:
    """Cut rows into batches of sounds of one length each."""
    made: list[Tensor] = []
    for length in lengths.unique():
        rows = (lengths == length).nonzero()[:, 0]
        made.extend((rows[torch.randperm(len(rows))] if shuffled else rows).split(size))
    order = torch.randperm(len(made)).tolist() if shuffled else range(len(made))
    yield from (made[index] for index in order)


def f1(logits: Tensor, labels: Tensor) -> float:
    """Return macro F1."""
    return float(multiclass_f1_score(logits, labels, CLASSES, average="macro"))


@torch.no_grad()
def encoded(encoder: nn.Module, inputs: Inputs, lengths: Tensor) -> Tensor:
    """Return what an encoder gives for all rows [N, WIDTH]."""
    encoder.eval()
    found = torch.empty(len(lengths), WIDTH)
    for rows in batches(lengths, 256, shuffled=False):
        found[rows] = encoder(*inputs(rows))
    return found


def fit(
    trained: nn.Module, steps: Callable[[], Iterator[tuple[Tensor, Tensor]]], measure: Callable[[], float],
    epochs: int, per_epoch: int,
) -> None:  # fmt: skip
    """Train with cross-entropy; leave the state of the epoch that measured best.

    Args:
        trained: What is trained.
        steps: Gives logits and labels of each batch of an epoch.
        measure: The score on the validation split.
        epochs: How many.
        per_epoch: Batches of an epoch.
    """
    optimizer = torch.optim.AdamW(trained.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * per_epoch)
    best, best_score = copy.deepcopy(trained.state_dict()), -1.0
    for epoch in range(epochs):
        started = time.monotonic()
        trained.train()
        for logits, labels in steps():
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels, label_smoothing=0.02).backward()
            optimizer.step()
            schedule.step()
        trained.eval()
        score = measure()
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  macro F1 {score:.4f}", flush=True)
        if score > best_score:
            best, best_score = copy.deepcopy(trained.state_dict()), score
    trained.load_state_dict(best)


def train_encoder(name: str, encoder: nn.Module, made: People, held_out: People) -> nn.Linear:
    """Train an encoder with a head of its own, which is returned."""
    head = nn.Linear(WIDTH, CLASSES)
    (inputs, lengths), (checked, checked_lengths) = inputs_of(made), inputs_of(held_out)
    labels, wanted = torch.from_numpy(made.labels), torch.from_numpy(held_out.labels)

    def steps() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in batches(lengths, BATCH, shuffled=True):
            yield head(encoder(*inputs[name](rows))), labels[rows]

    def measure() -> float:
        return f1(head(encoded(encoder, checked[name], checked_lengths)), wanted)

    print(name, flush=True)
    per_epoch = len(list(batches(lengths, BATCH, shuffled=False)))
    fit(nn.ModuleList([encoder, head]), steps, measure, EPOCHS[name], per_epoch)
    return head


def embeddings(network: Moods, made: People) -> list[Tensor]:
    """Return what the encoders give [N, WIDTH] each."""
    inputs, lengths = inputs_of(made)
    return [encoded(getattr(network, f"{name}_encoder"), inputs[name], lengths) for name in MODALITIES]


def fused(network: Moods, features: list[Tensor], presence: Tensor) -> Tensor:
    """Return logits where presence [N, 3] says what is there; what is not there is 0, as it is served."""
    there = [presence[:, index : index + 1] for index in range(len(MODALITIES))]
    seen = [one * here for one, here in zip(features, there, strict=True)]
    logits: Tensor = network.fusion(*seen, *(here > 0 for here in there))
    return logits


def hidden(count: int) -> Tensor:
    """Draw which modalities are there [count, 3]: all of half of the people, one or two of the others."""
    some = torch.tensor([subset for subset in SUBSETS.values() if sum(subset) < len(MODALITIES)])
    drawn = some[torch.randint(len(some), (count,))]
    return torch.where(torch.rand(count, 1) < HIDDEN_SHARE, drawn, 1).float()


def train_fusion(network: Moods, made: People, held_out: People, *, dropout: bool) -> None:
    """Train the fusion on what the encoders give."""
    features, checked = embeddings(network, made), embeddings(network, held_out)
    labels, wanted = torch.from_numpy(made.labels), torch.from_numpy(held_out.labels)
    tried = list(SUBSETS.values()) if dropout else [SUBSETS["all"]]

    def steps() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(labels)).split(BATCH):
            there = hidden(len(rows)) if dropout else torch.ones(len(rows), len(MODALITIES))
            yield fused(network, [one[rows] for one in features], there), labels[rows]

    @torch.no_grad()
    def measure() -> float:
        each = [torch.tensor([subset]).float().expand(len(wanted), -1) for subset in tried]
        return sum(f1(fused(network, checked, there), wanted) for there in each) / len(each)

    print(f"fusion, dropout {dropout}", flush=True)
    fit(network.fusion, steps, measure, FUSION_EPOCHS, -(-len(labels) // BATCH))


def train() -> None:
    """Train all from scratch, and save it."""
    torch.manual_seed(SEED)
    network = build()
    held_out, first, second = people("validation", 600), people("train", PEOPLE), people("train", PEOPLE, seed=1)
    heads = nn.ModuleDict(
        {name: train_encoder(name, getattr(network, f"{name}_encoder"), first, held_out) for name in MODALITIES}
    )
    save_file({name: each.half() for name, each in heads.state_dict().items()}, HEADS)
    untrained = copy.deepcopy(network.fusion.state_dict())
    for dropout, path in WEIGHTS.items():
        network.fusion.load_state_dict(untrained)
        train_fusion(network, second, held_out, dropout=dropout)
        state = network.state_dict()
        save_file({name: each.half() if each.is_floating_point() else each for name, each in state.items()}, path)


@torch.no_grad()
def evaluate() -> None:
    """Print macro F1 on the test split: baselines, then each subset with and without modality dropout."""
    test = people("test", 1000)
    labels, heads = torch.from_numpy(test.labels), load_file(HEADS)
    print("logistic regression on simple features:", simple_f1(people("train", PEOPLE), test))
    for dropout, path in WEIGHTS.items():
        network = build()
        network.load_state_dict(load_file(path))
        features = embeddings(network, test)
        if dropout:
            for name, one in zip(MODALITIES, features, strict=True):
                logits = nn.functional.linear(one, heads[f"{name}.weight"].float(), heads[f"{name}.bias"].float())
                print(f"{name} encoder and its own head: {f1(logits, labels):.3f}")
        print("with" if dropout else "without", "modality dropout")
        for name, subset in SUBSETS.items():
            logits = fused(network, features, torch.tensor([subset]).float().expand(len(labels), -1))
            of_class = multiclass_f1_score(logits, labels, CLASSES, average="none").tolist()
            each = "  ".join(f"{mood} {score:.2f}" for mood, score in zip(MOODS, of_class, strict=True))
            print(f"  {name:13s} {f1(logits, labels):.3f}   {each}")


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(1)
    if not parser.parse_args().evaluate:
        train()
    evaluate()


if __name__ == "__main__":
    main()

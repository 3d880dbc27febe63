"""Train the network of this recipe, or measure it.

    python recipes/support_desk/train.py               # some minutes on one core; writes weights.safetensors
    python recipes/support_desk/train.py --evaluate    # the tables of README.md, from the committed weights

All is trained together, with the cross-entropies of intent, sentiment and urgency. Three tickets in ten lose their
screenshot, drawn anew in each epoch, and what stands in for it is learned. Training is seeded, and repeats to the bit
on the same processor with the same torch. Weights are stored in FP16.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from data import Tickets, tickets
from model import CLASSES, LONGEST_TEXT, SupportDesk, build
from routing import route_of
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"
SEED = 9
TICKETS = 2500
EPOCHS = 6
BATCH = 64
PEAK_LEARNING_RATE = 3e-3
WITHOUT_SHARE = 0.3


def tensors(made: Tickets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids, mask, pixels and labels [N, 3] of tickets."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding(length=LONGEST_TEXT)
    encoded = tokenizer.encode_batch(made.texts)
    ids, mask = (torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask"))
    return ids, mask, torch.from_numpy(made.screenshots), torch.from_numpy(made.labels)


def answered(network: SupportDesk, inputs: tuple[Tensor, Tensor, Tensor], without: Tensor) -> list[Tensor]:
    """Give the three scores; `without` [N] says whose screenshot is missing."""
    ids, mask, pixels = inputs
    seen = torch.where(without[:, None], network.desk.no_screenshot, network.image_encoder(pixels))
    return list(network.desk(network.text_encoder(ids, mask), seen))


def train() -> SupportDesk:
    """Train from scratch."""
    torch.manual_seed(SEED)
    network, (ids, mask, pixels, labels) = build(), tensors(tickets("train", TICKETS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * -(-TICKETS // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        network.train()
        started, losses = time.monotonic(), []
        for rows in torch.randperm(TICKETS).split(BATCH):
            optimizer.zero_grad()
            without = torch.rand(len(rows)) < WITHOUT_SHARE
            scores = answered(network, (ids[rows], mask[rows], pixels[rows]), without)
            each = [nn.functional.cross_entropy(one, labels[rows, at]) for at, one in enumerate(scores)]
            torch.stack(each).sum().backward()
            optimizer.step()
            schedule.step()
            losses.append([one.item() for one in each])
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  losses {np.mean(losses, axis=0)}", flush=True)
    return network.eval()


def scores_of(name: str, predicted: list[np.ndarray], labels: np.ndarray) -> None:
    """Print macro F1 of each, and how many tickets reach the queue that their labels ask for."""
    from sklearn.metrics import f1_score

    each = [f1_score(labels[:, at], one, average="macro") for at, one in enumerate(predicted)]
    wanted = [route_of(*(int(one) for one in row)) for row in labels]
    found = [route_of(*(int(one) for one in row)) for row in np.stack(predicted, axis=1)]
    shown = "  ".join(f"{label} {score:.3f}" for label, score in zip(CLASSES, each, strict=True))
    print(f"{name:28s} {shown}  right queue {np.mean(np.array(wanted) == np.array(found)):.3f}")


@torch.no_grad()
def evaluate() -> None:
    """Print figures of the test split, with and without screenshots, beside logistic regression."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    made, learned = tickets("test", 1000), tickets("train", TICKETS)
    *inputs, labels = tensors(made)
    network = build()
    network.load_state_dict(load_file(WEIGHTS))
    for name, missing in (("text and screenshot", False), ("without the screenshot", True)):
        scores = answered(network, tuple(inputs), torch.full((len(labels),), missing))  # type: ignore[arg-type]
        scores_of(name, [one.argmax(dim=1).numpy() for one in scores], labels.numpy())
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    features = {
        "train": [words.fit_transform(learned.texts).toarray(), learned.screenshots.reshape(TICKETS, -1) / 255.0 - 0.7],
        "test": [words.transform(made.texts).toarray(), made.screenshots.reshape(len(labels), -1) / 255.0 - 0.7],
    }
    for name, taken in (("words", [0]), ("pixels", [1]), ("words and pixels", [0, 1])):
        fitted, judged = (np.hstack([features[split][one] for one in taken]) for split in ("train", "test"))
        models = [LogisticRegression(C=0.1, max_iter=100).fit(fitted, learned.labels[:, at]) for at in range(3)]
        scores_of(f"logistic regression, {name}", [model.predict(judged) for model in models], labels.numpy())


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(1)
    if not parser.parse_args().evaluate:
        state = train().state_dict()
        save_file({name: each.half() if each.is_floating_point() else each for name, each in state.items()}, WEIGHTS)
    evaluate()


if __name__ == "__main__":
    main()

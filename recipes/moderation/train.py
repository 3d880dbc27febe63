"""Train the network of this recipe, calibrate it, or measure it.

    python recipes/moderation/train.py               # some minutes on one core; writes weights.safetensors
    python recipes/moderation/train.py --evaluate    # the tables of README.md, from the committed weights

Encoders and judge are trained together. Then one number, the temperature, is found on the validation split: the one
under which the true classes are most probable. Training is seeded, and repeats to the bit on the same processor with
the same torch. Weights are stored in FP16.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from data import Posts, posts
from model import CLASSES, LONGEST_TEXT, Moderation, build
from policy import decide
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"
SEED = 3
POSTS = 4000
EPOCHS = 8
BATCH = 64
PEAK_LEARNING_RATE = 3e-3
THRESHOLDS = {"review": 0.25, "reject": 0.7}

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def tensors(made: Posts) -> Tensors:
    """Return ids, mask, pixels and labels of posts."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding(length=LONGEST_TEXT)
    encoded = tokenizer.encode_batch(made.texts)
    ids, mask = (torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask"))
    return ids, mask, torch.from_numpy(made.pictures), torch.from_numpy(made.labels)


def logits_of(network: Moderation, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
    """Give logits [N, 3], before the temperature."""
    return network.judge.logits(network.text_encoder(ids, mask), network.image_encoder(pixels))


def train() -> Moderation:
    """Train from scratch."""
    torch.manual_seed(SEED)
    network, (ids, mask, pixels, labels) = build(), tensors(posts("train", POSTS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.1)
    steps = EPOCHS * -(-POSTS // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        network.train()
        started, losses = time.monotonic(), []
        for rows in torch.randperm(POSTS).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(logits_of(network, ids[rows], mask[rows], pixels[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  loss {np.mean(losses):.4f}", flush=True)
    return network.eval()


@torch.no_grad()
def calibrate(network: Moderation) -> None:
    """Set the temperature under which the labels of the validation split are most probable."""
    ids, mask, pixels, labels = tensors(posts("validation", 1000))
    logits = logits_of(network, ids, mask, pixels)
    tried = torch.linspace(0.5, 4.0, 351)
    losses = torch.stack([nn.functional.cross_entropy(logits / one, labels) for one in tried])
    network.judge.temperature.fill_(float(tried[losses.argmin()]))


def figures(probabilities: Tensor, labels: Tensor) -> str:
    """Give macro F1, expected calibration error, and the recall of each class by the policy's decisions."""
    f1 = float(multiclass_f1_score(probabilities, labels, CLASSES, average="macro"))
    error = float(multiclass_calibration_error(probabilities, labels, CLASSES, n_bins=15))
    decisions = torch.tensor([int(decide(row, **THRESHOLDS)["decision"][0]) for row in probabilities.numpy()])
    recalls = [float((decisions[labels == one] == one).float().mean()) for one in range(CLASSES)]
    return f"macro F1 {f1:.3f}  calibration error {error:.3f}  recalls " + " ".join(f"{one:.3f}" for one in recalls)


@torch.no_grad()
def evaluate() -> None:
    """Print figures of the test split, with and without the temperature, and of what is told by one half alone."""
    made = posts("test", 1200)
    ids, mask, pixels, labels = tensors(made)
    network = build()
    network.load_state_dict(load_file(WEIGHTS))
    seen, read = network.image_encoder(pixels), network.text_encoder(ids, mask)
    logits = network.judge.logits(read, seen)
    temperature = float(network.judge.temperature)
    print(f"with temperature {temperature:.2f}: {figures((logits / temperature).softmax(dim=1), labels)}")
    print(f"with temperature 1: {figures(logits.softmax(dim=1), labels)}")
    baseline(network, (read, seen), labels)


def baseline(network: Moderation, test: tuple[Tensor, Tensor], labels: Tensor) -> None:
    """Print macro F1 of logistic regression on the embeddings of one half, and on both side by side."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    ids, mask, pixels, wanted = tensors(posts("validation", 1000))
    train = (network.text_encoder(ids, mask), network.image_encoder(pixels))
    for name, taken in (("text", [0]), ("picture", [1]), ("both, side by side", [0, 1])):
        model = LogisticRegression(max_iter=2000).fit(torch.cat([train[one] for one in taken], dim=1), wanted)
        predicted = model.predict(torch.cat([test[one] for one in taken], dim=1))
        print(f"logistic regression on {name}: macro F1 {f1_score(labels, predicted, average='macro'):.3f}")


def main() -> None:
    """Train, calibrate and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(1)
    if not parser.parse_args().evaluate:
        network = train()
        calibrate(network)
        state = network.state_dict()
        save_file({name: each.half() if each.is_floating_point() else each for name, each in state.items()}, WEIGHTS)
    evaluate()


if __name__ == "__main__":
    main()

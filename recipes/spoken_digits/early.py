"""The network with a second classifier, on the image alone: it answers first, and the recording is heard where unsure.

    pixels UINT8 [N, 8, 8] ---> ImageEncoder --+--> EarlyHead ---> early logits [N, 10]
                                               |
    waveform FP32 [N, 4000] --> AudioEncoder --+--> GatedFusion -> logits [N, 10]

The head was trained with the network (`train.py`) and lies in `heads.safetensors`.
"""

from __future__ import annotations

from pathlib import Path

from model import CLASSES, WIDTH, SpokenDigits
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS, HEADS = FOLDER / "weights.safetensors", FOLDER / "heads.safetensors"


class EarlyHead(nn.Module):
    """A linear classifier of the mean token of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify tokens [N, T, 192]; gives logits [N, 10]."""
        return self.classify(tokens.mean(dim=1))


class EarlyDigits(SpokenDigits):
    """The whole network and its early classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.early_head = EarlyHead()


def build() -> EarlyDigits:
    """Build the trained network: both files of weights are read here."""
    network, heads = EarlyDigits(), load_file(HEADS)
    early = {f"early_head.classify.{name}": heads[f"image.{name}"] for name in ("weight", "bias")}
    network.load_state_dict(load_file(WEIGHTS) | early)
    return network

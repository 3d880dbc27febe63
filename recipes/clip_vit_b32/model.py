"""A CLIP checkpoint as a zero-shot classifier: two towers into one space, and scores by the learned temperature.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021 (arXiv:2103.00020),
figure 3; the modules are those of `transformers`, so a checkpoint's tensors keep their names.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from mmdeploy.zoo import NormalisePixels

FOLDER = Path(__file__).parent
CHECKPOINT, SMALL = FOLDER / "checkpoint", FOLDER / "small"


class ImageTower(nn.Module):
    """Pictures to unit vectors."""

    def __init__(self, clip: CLIPModel, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.normalise = NormalisePixels(mean=mean, std=std)
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            pixels: Colours, UINT8 [N, H, W, 3], of the size that the checkpoint was trained on.

        Returns:
            Unit vectors [N, D].
        """
        pooled = self.vision_model(pixel_values=self.normalise(pixels)).pooler_output
        return nn.functional.normalize(self.visual_projection(pooled), dim=-1)


class TextTower(nn.Module):
    """Lists of texts to unit vectors.

    It needs no mask: attention looks back only, and what stands for a text is its first end-of-text token. What fills
    up behind that changes nothing.
    """

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection

    def forward(self, ids: Tensor) -> Tensor:
        """Embed K texts a sample.

        Args:
            ids: Token ids, INT64 [N, K, T].

        Returns:
            Unit vectors [N, K, D].
        """
        pooled = self.text_model(input_ids=ids.flatten(0, 1)).pooler_output
        found = nn.functional.normalize(self.text_projection(pooled), dim=-1)
        return found.reshape(ids.shape[0], ids.shape[1], found.shape[-1])


class ZeroShot(nn.Module):
    """How well each text fits the picture: cosine times the learned temperature, as ``logits_per_image``."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.logit_scale = clip.logit_scale

    def forward(self, image: Tensor, texts: Tensor) -> Tensor:
        """Score unit vectors [N, D] against [N, K, D]: [N, K]."""
        return self.logit_scale.exp() * (texts * image[:, None]).sum(dim=-1)


class Classifier(nn.Module):
    """The whole model; ``clip`` is where a checkpoint's tensors, and an adapter, belong."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.clip = CLIPModel(config_of(folder))
        pixels = json.loads((folder / "preprocessor_config.json").read_text())
        self.image = ImageTower(self.clip, pixels["image_mean"], pixels["image_std"])
        self.text, self.head = TextTower(self.clip), ZeroShot(self.clip)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Score each picture [N, H, W, 3] against its K texts [N, K, T]: [N, K]."""
        return self.head(self.image(pixels), self.text(ids))


def config_of(folder: Path) -> CLIPConfig:
    """Return a checkpoint's configuration.

    Raises:
        ValueError: If the folder is of another kind of model: `CLIPConfig` would take its own defaults for it.
    """
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != "clip":
        raise ValueError(f"{folder} is a checkpoint of the kind {kind!r}, and this recipe takes 'clip'")
    return CLIPConfig.from_pretrained(folder)


def build() -> nn.Module:
    """Return the model of the folder `checkpoint`; its weights are the recipe's to load."""
    return Classifier(CHECKPOINT)


def build_small() -> nn.Module:
    """Return the model of the folder `small`."""
    return Classifier(SMALL)

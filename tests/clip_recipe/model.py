"""A CLIP pair, from a checkpoint folder as ``save_pretrained`` leaves it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

CHECKPOINT = Path(__file__).parent / "checkpoint"
#: Of CLIPImageProcessor.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageTower(nn.Module):
    """Turn pixels [N, 3, H, W] of 0 to 255 into embeddings of length 1."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = self.vision_model(pixel_values=(pixels.float() / 255 - self.mean) / self.std).pooler_output
        embedding = self.visual_projection(pooled)
        return embedding / embedding.norm(dim=-1, keepdim=True)


class TextTower(nn.Module):
    """Turn token ids [N, T] and their mask into embeddings of length 1."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embedding = self.text_projection(self.text_model(input_ids=ids, attention_mask=mask).pooler_output)
        return embedding / embedding.norm(dim=-1, keepdim=True)


class Similarity(nn.Module):
    """Scale the cosine of each pair, as ``logits_per_image`` has it on its diagonal."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.logit_scale = clip.logit_scale

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return (image * text).sum(dim=-1, keepdim=True) * self.logit_scale.exp()


class Pair(nn.Module):
    """The whole model; ``clip`` is where its checkpoint belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = CLIPModel(CLIPConfig.from_pretrained(CHECKPOINT))
        self.image, self.text, self.similarity = ImageTower(self.clip), TextTower(self.clip), Similarity(self.clip)


def build() -> nn.Module:
    """Return the model; its weights are the recipe's to load."""
    return Pair()

"""A CLIP ViT-B/32 pair as a recipe's model: the architecture of ``transformers``, weights drawn by a seed.

Speed does not depend on the weights, accuracy does: of random ones only the likeness of answers says something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

if TYPE_CHECKING:
    import numpy.typing as npt

TOWERS = {"image": ("pixel_values", "image_embedding"), "text": ("input_ids", "text_embedding")}
#: Sizes of the pair that a test can afford.
TINY: dict[str, Any] = {
    "text_config": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 300, "max_position_embeddings": 16, "eos_token_id": 299, "bos_token_id": 298,
    },
    "vision_config": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8,
    },
    "projection_dim": 32,
}  # fmt: skip


class ImageTower(nn.Module):
    """Pixels to an embedding."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected class token."""
        return self.visual_projection(self.vision_model(pixel_values=pixel_values).pooler_output)


class TextTower(nn.Module):
    """Token ids to an embedding."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the projected last token."""
        return self.text_projection(self.text_model(input_ids=input_ids).pooler_output)


def build(sizes: dict[str, Any] | None = None) -> nn.Module:
    """Return both towers; ViT-B/32 without sizes.

    Biases and normalizations are drawn too: as `transformers` initialises them, zeros and ones, the exporter would
    store each once for all layers.
    """
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**(sizes or {}))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.02)
            elif "norm" in name and parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return nn.ModuleDict({"image": ImageTower(model), "text": TextTower(model)})


def build_tiny() -> nn.Module:
    """Return both towers at test size."""
    return build(TINY)


def feed(tower: str, count: int, seed: int, sizes: dict[str, Any] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return random samples of a tower's input."""
    random = np.random.default_rng(seed)
    config = CLIPConfig(**(sizes or {}))
    if tower == "image":
        size = config.vision_config.image_size
        return {"pixel_values": random.standard_normal((count, 3, size, size)).astype(np.float32)}
    text = config.text_config
    length = text.max_position_embeddings
    ids = random.integers(1, text.vocab_size - 2, (count, length))
    ends = random.integers(length // 4, length, count)
    ids[np.arange(length) >= ends[:, None]] = text.eos_token_id
    return {"input_ids": ids.astype(np.int64)}

"""Classification without training: a table of what classes are called, embedded once.

Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020, section
3.1.4 (the mean of several prompts a class). Deployable: texts are encoded when the table is made, so what is served is
one linear layer, quantized like any other, and needs no text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class ZeroShotTable(nn.Module):
    """Logits of classes: the cosine between an embedding and the mean prompt of each class, times a scale."""

    def __init__(self, prompts: Sequence[Tensor], scale: float = 100.0) -> None:
        """Make the table.

        Args:
            prompts: Embeddings of each class's prompts, a class FP32 [prompts, dim]; as many prompts as one likes.
            scale: Of the cosines; a `ClipHead` has learned its own.

        Raises:
            ValueError: If there is no class, a class has no prompt, or widths differ.
        """
        super().__init__()
        shapes = [tuple(rows.shape) for rows in prompts]
        if not shapes or any(len(shape) != 2 or not shape[0] or shape[1] != shapes[0][-1] for shape in shapes):
            raise ValueError(f"prompts of {shapes}: one or more classes, each [1 or more prompts, one width]")
        means = torch.stack([functional.normalize(rows.detach(), dim=-1).mean(dim=0) for rows in prompts])
        self.classes = nn.Linear(means.shape[1], len(means), bias=False)
        with torch.no_grad():
            self.classes.weight.copy_(functional.normalize(means, dim=-1) * scale)

    def forward(self, embedding: Tensor) -> Tensor:
        """Compare.

        Args:
            embedding: FP32 [N, dim], of any length but 0.

        Returns:
            Logits FP32 [N, classes].

        Raises:
            ValueError: If the width is another one.
        """
        if embedding.dim() != 2 or embedding.shape[-1] != self.classes.in_features:
            raise ValueError(f"an embedding of {list(embedding.shape)}: made for [N, {self.classes.in_features}]")
        found: Tensor = self.classes(functional.normalize(embedding, dim=-1))
        return found

"""Questions about images: an image becomes tokens, a question a vector that asks them, layer after layer.

All but the first convolution is made of `mmdeploy.zoo`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.attention.heads import Attention, mlp
from mmdeploy.zoo.encoders.conv_net import residual_blocks
from mmdeploy.zoo.encoders.text_transformer import TextTransformer
from mmdeploy.zoo.encoders.transformer import Transformer

WIDTH = 96
HEADS = 6
GRID = 5  # places along a side, after four halvings of 75 pixels
SHARPNESS = 2.5  # of attention before training, see `sharpened`
VOCABULARY = 64
LONGEST = 16
ANSWERS = 10


class ImageEncoder(nn.Module):
    """Convolutions to a grid of 5 x 5, then two layers in which its places see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(halving(3, 24), halving(24, 32))
        self.blocks = nn.Sequential(*residual_blocks((32, 64, WIDTH))[1:])
        self.position = nn.Parameter(coordinates() @ (0.5 * torch.randn(5, WIDTH)))
        self.transformer = Transformer(WIDTH, depth=2, heads=HEADS, hidden=2 * WIDTH)
        for layer in self.transformer.layers:
            sharpened(layer.attention.qkv.weight[: 2 * WIDTH])

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: Colours, UINT8 [N, 75, 75, 3].

        Returns:
            A token a place, row by row [N, 25, 96].
        """
        scaled = 1.0 - pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5
        places = self.blocks(self.stem(scaled)).flatten(2).transpose(1, 2)
        return self.transformer(places + self.position)


def halving(channels: int, width: int) -> nn.Sequential:
    """Make a convolution that halves height and width, rounded up."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


@torch.no_grad()
def sharpened(weight: Tensor) -> None:
    """Scale the weights of queries or keys in place.

    With PyTorch's start every place gets about the same attention, and one object's place too little to learn from.
    """
    weight *= SHARPNESS


def coordinates() -> Tensor:
    """Return what positions start from: x, y, their squares and product at each place [25, 5].

    A score linear in these can be a squared distance to any place.
    """
    axis = torch.linspace(-1.0, 1.0, GRID)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, x * x, y * y, x * y], dim=-1).flatten(0, 1)


class QuestionEncoder(nn.Module):
    """One transformer layer over the words, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextTransformer(VOCABULARY, LONGEST, width=WIDTH, depth=1, heads=HEADS)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Turn words, INT64 [N, 16] with a mask that is 1 where one is, into a vector [N, 96]."""
        return self.text(ids, mask)


class AskingLayer(nn.Module):
    """Cross-attention and an MLP, each added to what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.asking = Attention(WIDTH, HEADS)
        sharpened(self.asking.query.weight)
        sharpened(self.asking.key.weight)
        self.mlp = mlp(WIDTH, 2)

    def forward(self, questions: Tensor, image: Tensor) -> Tensor:
        """Let questions [N, L, 96] ask an image [N, 25, 96]."""
        questions = questions + self.asking(self.norm(questions), image)
        return questions + self.mlp(questions)

    def attention(self, questions: Tensor, image: Tensor) -> Tensor:
        """Return the first head's scores before the softmax [N, L, 25]; training looks at them."""
        asks = self.asking.split(self.asking.query(self.norm(questions)))[:, 0]
        keys = self.asking.split(self.asking.key(image))[:, 0]
        return asks @ keys.transpose(1, 2) / asks.shape[-1] ** 0.5


class Fusion(nn.Module):
    """A question asks the image twice, the second time knowing what it found; then the answer is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AskingLayer() for _ in range(2))
        self.classifier = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, ANSWERS)
        )

    def answer(self, image: Tensor, questions: Tensor) -> Tensor:
        """Answer any number of questions [N, L, 96] about each image [N, 25, 96]: logits [N, L, 10]."""
        for layer in self.layers:
            questions = layer(questions, image)
        return self.classifier(questions)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        """Answer one question [N, 96] about each image [N, 25, 96]: logits [N, 10]."""
        return self.answer(image, question[:, None])[:, 0]


class VisualQuestions(nn.Module):
    """The whole network; its three attributes are deployed as separate components."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder()
        self.question_encoder = QuestionEncoder()
        self.fusion = Fusion()

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Answer a question each about images (UINT8 [N, 75, 75, 3]): logits [N, 10]."""
        return self.fusion(self.image_encoder(pixels), self.question_encoder(ids, mask))


def build() -> VisualQuestions:
    """Build the network with random weights; the recipe loads `weights.safetensors` into it."""
    return VisualQuestions()

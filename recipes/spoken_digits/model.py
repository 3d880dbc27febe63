"""The network: two encoders that give tokens, and a fusion in which each modality asks the other.

    pixels UINT8 [N, 8, 8] ---> ImageEncoder --- tokens [N, 17, 192] --+
                                                                      +--> GatedFusion ---> logits [N, 10]
    waveform FP32 [N, 4000] --> AudioEncoder --- tokens [N, 25, 192] --+

Everything that a client would otherwise have to repeat (scaling of pixels, log-mel spectrogram) is inside the
encoders. Only operators that ONNX Runtime and TensorRT both have are used: the spectrogram is a product with
windowed cosines and sines, because TensorRT has no STFT operator.

`torch.onnx.export` names a node after its operator: each product written with `@` (the spectrogram's two, and
attention's two products of activations) becomes `node_matmul*`, each linear layer `node_MatMul_*` or
`node_linear*`, each convolution `node_conv1d*`. The recipe keeps the first kind out of INT8 by that name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CLASSES = 10
WIDTH = 192
HEADS = 6
DEPTH = 2
IMAGE_SIDE = 8
PATCH_SIDE = 2
SAMPLE_RATE_HZ = 8000
WAVEFORM_SAMPLES = 4000
WINDOW_SAMPLES = 160  # 20 ms
HOP_SAMPLES = WINDOW_SAMPLES // 2  # a frame is two neighbouring hops
FRAMES = WAVEFORM_SAMPLES // HOP_SAMPLES - 1
MEL_BANDS = 32
POWER_FLOOR = 1e-3  # of the mean power of the recording: 30 dB under it, nothing is heard
SILENCE_POWER = 1e-7  # keeps the logarithm finite on digital silence


class Attention(nn.Module):
    """Multi-head attention from plain linear layers, so that each can be pruned and quantized on its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Let each token ask the context.

        Args:
            tokens: What asks [N, T, width].
            context: What is asked [N, S, width]; the tokens themselves for self-attention.

        Returns:
            What was found for each token [N, T, width].
        """
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(tokens), self.key(context), self.value(context))
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        found = torch.softmax(scores, dim=-1) @ value
        return self.output(found.transpose(1, 2).flatten(2))


class Mlp(nn.Sequential):
    """Two linear layers around a GELU, [..., width] to [..., width]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, 2 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens [N, T, width] to tokens [N, T, width]."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.mlp(self.mlp_norm(tokens))


class ImageEncoder(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2021): 2 x 2 patches and a class token."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS) -> None:
        super().__init__()
        patches = (IMAGE_SIDE // PATCH_SIDE) ** 2
        self.patch_embedding = nn.Linear(PATCH_SIDE**2, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: Grey levels, UINT8 [N, 8, 8].

        Returns:
            The class token, then one token a patch, row by row [N, 17, width].
        """
        scaled = pixels.to(torch.float32) / 127.5 - 1.0
        side = IMAGE_SIDE // PATCH_SIDE
        patches = scaled.unflatten(2, (side, PATCH_SIDE)).unflatten(1, (side, PATCH_SIDE)).transpose(2, 3)
        embedded = self.patch_embedding(patches.flatten(3).flatten(1, 2))
        class_token = self.class_token.expand(pixels.shape[0], -1, -1)
        return self.norm(self.blocks(torch.cat([class_token, embedded], dim=1) + self.position))


class LogMelSpectrogram(nn.Module):
    """Log-mel spectrogram that does not depend on the level of the recording; nothing in it is trained.

    Digital silence gives zeros, the middle of the range.
    """

    fourier: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fourier", fourier_basis(), persistent=False)
        self.register_buffer("mel", mel_filters(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn samples into mel bands.

        Args:
            waveform: Samples in [-1, 1] at 8 kHz [N, 4000].

        Returns:
            Log power of each band, its mean over the recording subtracted [N, 49, 32].
        """
        hops = waveform.unflatten(1, (-1, HOP_SAMPLES))
        frames = torch.cat([hops[:, :-1], hops[:, 1:]], dim=2)
        real, imaginary = (frames @ self.fourier).chunk(2, dim=2)
        power = (real * real + imaginary * imaginary) @ self.mel
        floor = POWER_FLOOR * power.mean(dim=(1, 2), keepdim=True) + SILENCE_POWER
        log_power = torch.log(power + floor)
        return 0.5 * (log_power - log_power.mean(dim=(1, 2), keepdim=True))


def fourier_basis() -> Tensor:
    """Make the Hann-windowed discrete Fourier transform of one frame.

    Returns:
        81 cosines, then 81 sines, from 0 to 4 kHz, as columns [160, 162].
    """
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)[:, None]
    frequency = torch.arange(WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
    angle = 2.0 * math.pi / WINDOW_SAMPLES * frequency * time
    window = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64)[:, None]
    return (torch.cat([angle.cos(), angle.sin()], dim=1) * window).to(torch.float32)


def mel_filters() -> Tensor:
    """Make triangular filters, evenly spaced on the mel scale (HTK's formula) from 60 Hz to 4 kHz.

    Returns:
        Weight of each Fourier bin (row) in each band (column) [81, 32].
    """
    low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (60.0, SAMPLE_RATE_HZ / 2))
    mel = torch.linspace(low, high, MEL_BANDS + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    bins = torch.linspace(0.0, SAMPLE_RATE_HZ / 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0.0).T.contiguous().to(torch.float32)


class AudioEncoder(nn.Module):
    """Log-mel spectrogram, three convolutions of which the last halves the time, then transformer blocks."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS) -> None:
        super().__init__()
        self.spectrogram = LogMelSpectrogram()
        self.convolutions = nn.Sequential(
            nn.Conv1d(MEL_BANDS, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, (FRAMES + 1) // 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode recordings.

        Args:
            waveform: Samples in [-1, 1] at 8 kHz, FP32 [N, 4000].

        Returns:
            One token for each 20 ms [N, 25, width].
        """
        features = self.convolutions(self.spectrogram(waveform).transpose(1, 2)).transpose(1, 2)
        return self.norm(self.blocks(features + self.position))


class GatedCrossAttention(nn.Module):
    """Cross-attention whose answer is weighed by a gate that sees both the question and the answer.

    The gate can shut out a modality that is damaged or missing.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.gate = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Add to each token what the other modality knows.

        Args:
            tokens: Tokens of one modality [N, T, width].
            context: Tokens of the other modality [N, S, width].

        Returns:
            Tokens of the first modality [N, T, width].
        """
        found = self.attention(tokens, context)
        gate = torch.sigmoid(self.gate(torch.cat([tokens, found], dim=-1)))
        return tokens + gate * found


class GatedFusion(nn.Module):
    """Each modality asks the other; the averages of both answers are classified."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, classes: int = CLASSES) -> None:
        super().__init__()
        self.image_from_audio = GatedCrossAttention(width, heads)
        self.audio_from_image = GatedCrossAttention(width, heads)
        self.classifier = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, classes)
        )

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Classify a pair.

        Args:
            image: Tokens of the image [N, 17, width].
            audio: Tokens of the recording [N, 25, width].

        Returns:
            Logits of the ten digits [N, 10].
        """
        seen = self.image_from_audio(image, audio).mean(dim=1)
        heard = self.audio_from_image(audio, image).mean(dim=1)
        return self.classifier(torch.cat([seen, heard], dim=-1))


class SpokenDigits(nn.Module):
    """The whole network; mmdeploy deploys its three attributes as separate components."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder()
        self.audio_encoder = AudioEncoder()
        self.fusion = GatedFusion()

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Classify pairs of image (UINT8 [N, 8, 8]) and recording (FP32 [N, 4000]); gives logits [N, 10]."""
        return self.fusion(self.image_encoder(image), self.audio_encoder(audio))


def build() -> SpokenDigits:
    """Build the network with random weights; the recipe loads `weights.safetensors` into it."""
    return SpokenDigits()

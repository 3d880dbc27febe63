"""What the catalogue says of the encoders."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.encoders.actions import ActionLocalizer, ActionQuality
from mmdeploy.zoo.encoders.conv_net import ConvNet
from mmdeploy.zoo.encoders.recurrent import EventDetector, SpeechEncoder
from mmdeploy.zoo.encoders.space_time import LongVideo, SpaceTimeTransformer
from mmdeploy.zoo.encoders.spectrogram_transformer import AudioTower, SpectrogramTransformer
from mmdeploy.zoo.encoders.temporal_shift import TemporalShift, TwoStream
from mmdeploy.zoo.encoders.text_transformer import TextTransformer
from mmdeploy.zoo.encoders.time_frequency import TimeFrequencyEncoder
from mmdeploy.zoo.encoders.vision_transformer import VisionTransformer
from mmdeploy.zoo.front_ends import LogMel

_WORDS = 100
_BANDS = 16
_FEATURES = 24
#: What dynamic INT8, which knows no convolution, says of a block without a linear layer.
_NOTHING_LINEAR = {"dynamic": "the graph has no MatMul, Gemm"}


def _seeded(make: Callable[[], nn.Module], *heads: str) -> Callable[[], nn.Module]:
    """Have a module made with the same weights each time.

    Args:
        make: Makes it.
        heads: Last layers whose weights become ten times as large: fresh ones give every sample nearly the same scores.
    """

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            module = make().eval()
        for head in heads:
            module.get_parameter(f"{head}.weight").data *= 10
        return module

    return made


def _mask(batch: int, length: int, made: torch.Generator) -> Tensor:
    """Return masks whose sequences end somewhere in their second half."""
    lengths = torch.randint((length + 1) // 2, length + 1, (batch, 1), generator=made)
    return (torch.arange(length) < lengths).long()


def _waves(batch: int, length: int, values: int, made: torch.Generator) -> Tensor:
    """Return values that change slowly from one place to the next, as features of frames do [batch, length, values]."""
    phase, speed = (torch.rand(batch, 1, values, generator=made) for _ in range(2))
    slow = torch.sin(2 * math.pi * (phase + 0.1 * speed * torch.arange(length)[:, None]))
    return slow + 0.3 * torch.randn(batch, length, values, generator=made)


def _pictures(made: torch.Generator, *shape: int) -> Tensor:
    """Return normalised pictures [..., height, width]: a slope, and grain on it."""
    height, width = shape[-2:]
    ends = 2 * torch.randn(*shape[:-2], 2, generator=made)[..., None, None]
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return ends[..., 0, :, :] * rows + ends[..., 1, :, :] * columns + 0.5 * torch.randn(*shape, generator=made)


def _images(batch: int, seed: int) -> dict[str, Tensor]:
    return {"images": _pictures(torch.Generator().manual_seed(seed), batch, 3, 16, 16)}


def _texts(batch: int, seed: int, tokens: int = 7) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(_WORDS, (batch, tokens), generator=made)
    return {"ids": ids, "mask": _mask(batch, tokens, made)}


def _sounds(batch: int, seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    pitch = 100 + 400 * torch.rand(batch, 1, generator=made)
    tone = torch.sin(2 * math.pi * pitch * torch.arange(1024) / 8000)
    return {"sound": 0.3 * tone + 0.05 * torch.randn(batch, 1024, generator=made)}


def _spectrograms(batch: int, seed: int, frames: int = 17) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"spectrogram": _waves(batch, frames, _BANDS, made), "mask": _mask(batch, frames, made)}


def _whole_spectrograms(batch: int, seed: int) -> dict[str, Tensor]:
    return {"spectrogram": _waves(batch, 20, _BANDS, torch.Generator().manual_seed(seed))}


def _features(batch: int, seed: int, frames: int = 12) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"features": _waves(batch, frames, _FEATURES, made), "mask": _mask(batch, frames, made)}


def _clips(batch: int, seed: int) -> dict[str, Tensor]:
    return {"video": _pictures(torch.Generator().manual_seed(seed), batch, 3, 3, 16, 16)}


def _videos(batch: int, seed: int, frames: int = 4) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"video": _pictures(made, batch, frames, 3, 8, 8), "mask": _mask(batch, frames, made)}


def _long_videos(batch: int, seed: int, clips: int = 3) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"video": _pictures(made, batch, clips, 2, 3, 8, 8), "mask": _mask(batch, clips, made)}


def _frame_and_flow(batch: int, seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {"frame": _pictures(made, batch, 3, 16, 16), "flow": _pictures(made, batch, 6, 16, 16)}


def _long_video() -> LongVideo:
    return LongVideo(SpaceTimeTransformer((8, 8), 2, 4, width=32, depth=1, heads=4), 32, 6, depth=1, heads=4)


def _audio_tower() -> AudioTower:
    front = LogMel(8000, window=128, hop=64, bands=_BANDS)
    return AudioTower(front, 1024, 16, patch=8, stride=4, depth=1, heads=4, hidden=32)


def _of(first: str, size: Size) -> dict[str, dict[int, Size]]:
    """Say that the axis behind the batch varies, of the first input and of its mask."""
    return {first: {1: size}, "mask": {1: size}}


VISION_TRANSFORMER = Block(
    name="VisionTransformer",
    what="images of one size to an embedding (ViT)",
    paper="Dosovitskiy et al., 2020, arXiv:2010.11929",
    deploys="patches are a strided convolution, positions a parameter of the one size; attention on four axes",
    make=_seeded(lambda: VisionTransformer((16, 16), 8, width=32, depth=2, heads=4)),
    samples=_images,
    outputs=("embedding",),
)

CONV_NET = Block(
    name="ConvNet",
    what="images to an embedding by a few residual blocks",
    paper="He et al., 2015, arXiv:1512.03385",
    deploys="batch normalization folds into the convolutions",
    make=_seeded(lambda: ConvNet((16, 32))),
    samples=_images,
    outputs=("embedding",),
    refusals=_NOTHING_LINEAR,
)

TEXT_TRANSFORMER = Block(
    name="TextTransformer",
    what="token ids and a padding mask to an embedding; texts of any length up to a longest",
    paper="Vaswani et al., 2017, arXiv:1706.03762",
    deploys="positions are a slice of a parameter; padding is masked in attention and in the mean",
    make=_seeded(lambda: TextTransformer(_WORDS, 12, width=32, depth=2, heads=4)),
    samples=_texts,
    outputs=("embedding",),
    varies=_of("ids", Size("tokens", 1, 12)),
)

SPECTROGRAM_TRANSFORMER = Block(
    name="SpectrogramTransformer",
    what="a spectrogram of one length to an embedding (AST)",
    paper="Gong, Chung and Glass, 2021, arXiv:2104.01778",
    deploys="overlapping patches are a strided convolution, positions a parameter of the one size",
    make=_seeded(lambda: SpectrogramTransformer(20, _BANDS, patch=8, stride=4, width=32, depth=1, heads=4)),
    samples=_whole_spectrograms,
    outputs=("embedding",),
)

TIME_FREQUENCY = Block(
    name="TimeFrequencyEncoder",
    what="a spectrogram of any length to frames that are weighed by their times and frequencies, and an embedding",
    paper="Zhang et al., 2021, arXiv:2111.07518",
    deploys="means of real frames and convolutions of one axis; convolutions see padding as zeros",
    make=_seeded(lambda: TimeFrequencyEncoder(_BANDS, 32, 1, 5)),
    samples=_spectrograms,
    outputs=("frames", "embedding"),
    varies=_of("spectrogram", Size("frames", 1, 40)),
)

SPACE_TIME = Block(
    name="SpaceTimeTransformer",
    what="clips to an embedding by attention over time and over space in turn (TimeSformer)",
    paper="Bertasius, Wang and Torresani, 2021, arXiv:2102.05095",
    deploys="places and frames are folded into the batch by turns: each attention has four axes",
    make=_seeded(lambda: SpaceTimeTransformer((16, 16), 3, 8, width=32, depth=1, heads=4)),
    samples=_clips,
    outputs=("embedding",),
)

TEMPORAL_SHIFT = Block(
    name="TemporalShift",
    what="a video of any length to an embedding by a network of images whose channels move in time (TSM)",
    paper="Lin, Gan and Han, 2018, arXiv:1811.08383",
    deploys="the shift is slices and a concatenation; frames are folded into the batch",
    make=_seeded(lambda: TemporalShift((16, 32))),
    samples=_videos,
    outputs=("embedding",),
    varies=_of("video", Size("frames", 1, 8)),
    not_pruned="torch-pruning takes minutes to follow channels that are sliced and put together again",
    refusals=_NOTHING_LINEAR,
)

TWO_STREAM = Block(
    name="TwoStream",
    what="a frame and the optical flow around it to probabilities of classes",
    paper="Simonyan and Zisserman, 2014, arXiv:1406.2199",
    deploys="the flow is an input: no engine computes it",
    make=_seeded(lambda: TwoStream(5, 3, (16, 32)), "space.1", "time.1"),
    samples=_frame_and_flow,
    outputs=("probabilities",),
)

LONG_VIDEO = Block(
    name="LongVideo",
    what="a video of any number of clips to an embedding: an encoder on each clip, a transformer over them",
    paper="Ashutosh et al., 2023, arXiv:2301.02311",
    deploys="clips are folded into the batch of one encoder instead of a loop",
    make=_seeded(_long_video),
    samples=_long_videos,
    outputs=("embedding",),
    varies=_of("video", Size("clips", 1, 6)),
)

SPEECH_ENCODER = Block(
    name="SpeechEncoder",
    what="a spectrogram of any length to a quarter as many frames, and an embedding, by convolutions and GRUs",
    paper="Amodei et al., 2015, arXiv:1512.02595",
    deploys="backwards, a GRU reads the real part turned round by a gather: packed sequences cannot be exported",
    make=_seeded(lambda: SpeechEncoder(_BANDS, 32, 16, 1)),
    samples=_spectrograms,
    outputs=("frames", "embedding"),
    varies=_of("spectrogram", Size("frames", 1, 40)),
    refusals=_NOTHING_LINEAR,
)

EVENT_DETECTOR = Block(
    name="EventDetector",
    what="a spectrogram of any length to scores of sound events, by frame and for the whole",
    paper="Cakir et al., 2017, arXiv:1702.06286",
    deploys="frequencies are pooled and frames are not; GRUs as in SpeechEncoder",
    make=_seeded(lambda: EventDetector(4, _BANDS, (16, 16), 16), "head"),
    samples=_spectrograms,
    outputs=("scores", "whole"),
    varies=_of("spectrogram", Size("frames", 1, 40)),
)

AUDIO_TOWER = Block(
    name="AudioTower",
    what="a sound to a unit vector beside those of texts (MuLan, CLAP)",
    paper="Huang et al., 2022, arXiv:2208.12415; Elizalde et al., 2022, arXiv:2206.04769",
    deploys="the spectrogram is in the graph, a convolution and a product, and stays in float",
    make=_seeded(_audio_tower),
    samples=_sounds,
    outputs=("embedding",),
    float_nodes=("spectrogram/*",),
)

ACTION_LOCALIZER = Block(
    name="ActionLocalizer",
    what="features of a video of any length to each frame's action and where that begins and ends",
    paper="Zhang, Wu and Li, 2022, arXiv:2202.07925",
    deploys="the window of attention is a mask made of the length; overlapping answers are left to a python step",
    make=_seeded(lambda: ActionLocalizer(4, _FEATURES, width=32, depth=2, heads=4, window=5), "classes.1", "bounds.1"),
    samples=_features,
    outputs=("scores", "distances"),
    varies=_of("features", Size("frames", 1, 30)),
)

ACTION_QUALITY = Block(
    name="ActionQuality",
    what="features of a video of any length to a score, and to a rank among other videos",
    paper="Tang et al., 2020, arXiv:2006.07665; Doughty, Damen and Mayol-Cuevas, 2018, arXiv:1703.09913",
    deploys="frames are weighed by a masked softmax; the levels of the score are a buffer",
    make=_seeded(lambda: ActionQuality(_FEATURES, hidden=32, levels=11), "distribution", "rank"),
    samples=_features,
    outputs=("score", "rank"),
    varies=_of("features", Size("frames", 1, 30)),
)

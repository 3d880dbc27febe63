"""Front ends, which save a client or a step of ``preprocess`` from computing what the graph can."""

from mmdeploy.zoo.block import Block
from mmdeploy.zoo.front_ends import entries
from mmdeploy.zoo.front_ends.pixels import NormalisePixels, ResizePixels
from mmdeploy.zoo.front_ends.spectrograms import LogMel, Mfcc

BLOCKS: dict[str, Block] = {
    "log_mel": entries.LOG_MEL,
    "mfcc": entries.MFCC,
    "normalise_pixels": entries.NORMALISE_PIXELS,
    "resize_pixels": entries.RESIZE_PIXELS,
}

__all__ = ["BLOCKS", "LogMel", "Mfcc", "NormalisePixels", "ResizePixels"]

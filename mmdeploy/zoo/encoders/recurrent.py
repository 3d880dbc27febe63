"""Encoders of sounds of any length: convolutions and a recurrent layer that reads both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import mean_of_real, require, zero_padding
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class TwoWayGru(nn.Module):
    """A GRU (Cho et al., 2014, arXiv:1406.1078) that reads padded sequences forwards and backwards.

    `nn.GRU` with ``bidirectional`` would begin in the padding when it reads backwards, and packed sequences, which
    would not, cannot be exported. Here the real part of each sequence is turned round by a gather: a second `nn.GRU`
    reads that forwards.
    """

    def __init__(self, width: int, hidden: int) -> None:
        """Make both layers, from ``width`` values a frame to ``hidden`` each way."""
        super().__init__()
        self.ahead, self.back = (nn.GRU(width, hidden, batch_first=True) for _ in range(2))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn frames [N, T, width] and their mask [N, T], padding last, into [N, T, 2 * hidden], 0 in padding."""
        turned = turned_round(mask)
        ahead, _ = self.ahead(frames)
        back, _ = self.back(picked(frames, turned))
        return zero_padding(torch.cat([ahead, picked(back, turned)], dim=-1), mask)


def turned_round(mask: Tensor) -> Tensor:
    """Return which frame stands where [N, T] when the real ones, which come first, are turned round."""
    places = torch.arange(mask.shape[1], device=mask.device)
    lengths = (mask != 0).sum(dim=1, keepdim=True)
    return torch.where(places < lengths, lengths - 1 - places, places)


def picked(frames: Tensor, places: Tensor) -> Tensor:
    """Return the frames [N, T, width] in the order of their places [N, T]."""
    return frames.gather(1, places[:, :, None].expand_as(frames))


@tells_shapes
class SpeechEncoder(nn.Module):
    """A spectrogram of any length to frames, a quarter as many, that know what was said before and after.

    Convolutions and recurrent layers as Deep Speech 2's (Amodei et al., 2015, arXiv:1512.02595), with GRUs. Deployable:
    any batch and length in one graph (the exporter of mmdeploy writes a GRU as ONNX's own, torch's would unroll it),
    and padding, which comes last, changes nothing.
    """

    def __init__(self, bands: int = 80, width: int = 128, hidden: int = 128, layers: int = 2) -> None:
        """Make the encoder.

        Args:
            bands: Of a frame that comes.
            width: Channels of the convolutions.
            hidden: Values that each GRU gives for a frame, each way.
            layers: Recurrent layers.
        """
        super().__init__()
        self.bands = bands
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv1d(channels, width, 3, stride=2, padding=1), nn.BatchNorm1d(width), nn.ReLU())
            for channels in (bands, width)
        )
        self.recurrent = nn.ModuleList(TwoWayGru(width if not layer else 2 * hidden, hidden) for layer in range(layers))

    @staticmethod
    def mask_of_frames(mask: Tensor) -> Tensor:
        """Turn the mask of a spectrogram INT64 [N, T] into that of its frames [N, ceil(T / 4)]."""
        return mask[:, ::4]

    def frames(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        """Turn spectrograms FP32 [N, T, bands] and their mask INT64 [N, T] into frames [N, ceil(T / 4), 2 * hidden].

        Raises:
            ValueError: If they have another number of bands.
        """
        require(spectrogram, "spectrogram", "N", "T", self.bands)
        require(mask, "mask", "N", "T", integer=True)
        found, left = spectrogram, mask
        for convolution in self.convolutions:
            found = convolution(zero_padding(found, left).transpose(1, 2)).transpose(1, 2)
            left = left[:, ::2]
        for layer in self.recurrent:
            found = layer(found, left)
        return found

    def forward(self, spectrogram: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sounds.

        Args:
            spectrogram: FP32 [N, T, bands], as `LogMel` gives it.
            mask: INT64 [N, T], 1 where a frame is real; padding comes last.

        Returns:
            Frames FP32 [N, ceil(T / 4), 2 * hidden], 0 in padding (`mask_of_frames`), and the embedding
            [N, 2 * hidden], the mean of the real ones.

        Raises:
            ValueError: If they have another number of bands.
        """
        found = self.frames(spectrogram, mask)
        return found, mean_of_real(found, self.mask_of_frames(mask))


@tells_shapes
class EventDetector(nn.Module):
    """A spectrogram of any length to scores of sound events, frame by frame and for the whole sound.

    A convolutional recurrent network (Cakir et al., 2017, arXiv:1702.06286); frames are pooled by linear softmax (Wang,
    Li and Metze, 2018, arXiv:1810.09050), so that it can be trained on sounds whose events have no times. Deployable:
    frequencies are pooled and frames are not, so any length is one graph; padding, which comes last, changes nothing.
    """

    def __init__(self, classes: int, bands: int = 64, widths: Sequence[int] = (32, 64), hidden: int = 64) -> None:
        """Make the detector.

        Args:
            classes: Kinds of events.
            bands: Of a frame.
            widths: Channels of each convolution; behind each, four bands become one.
            hidden: Values that the GRU gives for a frame, each way.

        Raises:
            ValueError: If the bands do not last for as many convolutions.
        """
        super().__init__()
        left = bands // 4 ** len(widths)
        if not widths or left < 1:
            raise ValueError(
                f"{bands} bands and {len(widths)} convolutions: at least one, and 4 bands become 1 in each"
            )
        self.bands = bands
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d((1, 4))
            )
            for channels, width in zip((1, *widths), widths, strict=False)
        )
        self.recurrent = TwoWayGru(widths[-1] * left, hidden)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, spectrogram: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Detect events.

        Args:
            spectrogram: FP32 [N, T, bands], as `LogMel` gives it.
            mask: INT64 [N, T], 1 where a frame is real; padding comes last.

        Returns:
            Scores from 0 to 1 of frames FP32 [N, T, classes], 0 in padding, and of the sound [N, classes].

        Raises:
            ValueError: If they have another number of bands.
        """
        require(spectrogram, "spectrogram", "N", "T", self.bands)
        require(mask, "mask", "N", "T", integer=True)
        found = spectrogram[:, :, None]
        for convolution in self.convolutions:
            found = convolution(zero_padding(found, mask).transpose(1, 2)).transpose(1, 2)
        scores = zero_padding(self.head(self.recurrent(found.flatten(2), mask)).sigmoid(), mask)
        return scores, (scores * scores).sum(dim=1) / scores.sum(dim=1).clamp(min=1e-6)

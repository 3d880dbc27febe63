"""Attention over the times and the frequencies of a spectrogram, and an encoder that is made of it."""

from __future__ import annotations

from torch import Tensor, nn

from mmdeploy.zoo.encoders.shapes import mean_of_real, require, zero_padding
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class TimeFrequencyAttention(nn.Module):
    """Weights from 0 to 1 for each time and each frequency, of what is there on average; their product weighs a place.

    Zhang et al., 2021, arXiv:2111.07518. Deployable: means, convolutions of one axis and a product, nothing of the size
    frames x frames; averages are over real frames, so padding changes nothing.
    """

    def __init__(self, kernel: int = 17) -> None:
        """Make the convolutions, of ``kernel`` neighbours.

        Raises:
            ValueError: If that is even.
        """
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel}: an odd number, so that as many neighbours are on both sides")
        self.time, self.frequency = (
            nn.ModuleList(nn.Conv1d(1, 1, kernel, padding=kernel // 2) for _ in range(2)) for _ in range(2)
        )

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Weigh frames FP32 [N, T, width], whose mask is INT64 [N, T], to the same shape, 0 in padding."""
        first, second = self.time
        energies = zero_padding(frames.mean(dim=2, keepdim=True), mask)
        hidden = zero_padding(first(energies.transpose(1, 2)).relu().transpose(1, 2), mask)
        times = second(hidden.transpose(1, 2)).sigmoid().transpose(1, 2)

        first, second = self.frequency
        frequencies = second(first(mean_of_real(frames, mask)[:, None]).relu()).sigmoid()
        return zero_padding(frames * times * frequencies, mask)


class TimeFrequencyBlock(nn.Module):
    """A residual block of convolutions over time, one of them dilated, and the attention."""

    def __init__(self, width: int, dilation: int, kernel: int) -> None:
        """Make a block for ``width`` values a frame."""
        super().__init__()
        self.before = nn.Sequential(nn.LayerNorm(width), nn.ReLU())
        self.around = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.between = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
        self.attention = TimeFrequencyAttention(kernel)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Turn frames [N, T, width] and their mask [N, T] into [N, T, width]."""
        real = zero_padding(self.before(frames), mask)
        found: Tensor = frames + self.attention(self.between(self.around(real.transpose(1, 2)).transpose(1, 2)), mask)
        return found


@tells_shapes
class TimeFrequencyEncoder(nn.Module):
    """A spectrogram of any length to its frames, weighed by time-frequency attention, and an embedding.

    A residual temporal convolution network with the attention in each block, as Zhang et al., 2021, arXiv:2111.07518.
    Deployable: any batch and length in one graph; padding changes nothing, wherever it is.
    """

    def __init__(self, bands: int = 80, width: int = 128, depth: int = 4, kernel: int = 17) -> None:
        """Make the encoder.

        Args:
            bands: Of a frame that comes.
            width: Values of a frame within.
            depth: Blocks; the dilation is 1, 2, 4 and 8 in turn.
            kernel: Of the attention, an odd number.

        Raises:
            ValueError: If the kernel is even.
        """
        super().__init__()
        self.bands = bands
        self.inner = nn.Linear(bands, width)
        self.blocks = nn.ModuleList(TimeFrequencyBlock(width, 2 ** (index % 4), kernel) for index in range(depth))

    def forward(self, spectrogram: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sounds.

        Args:
            spectrogram: FP32 [N, T, bands], as `LogMel` gives it.
            mask: INT64 [N, T], 1 where a frame is real.

        Returns:
            Frames FP32 [N, T, width], 0 in padding, and the embedding [N, width], the mean of the real ones.

        Raises:
            ValueError: If they have another number of bands.
        """
        require(spectrogram, "spectrogram", "N", "T", self.bands)
        require(mask, "mask", "N", "T", integer=True)
        found = self.inner(spectrogram)
        for block in self.blocks:
            found = block(found, mask)
        return zero_padding(found, mask), mean_of_real(found, mask)

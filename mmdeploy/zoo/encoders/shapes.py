"""What the blocks demand of their inputs, and what they do with masks: INT64, 1 where a value is real, 0 in padding."""

from __future__ import annotations

import torch
from torch import Tensor


def require(tensor: Tensor, name: str, *sizes: int | str, integer: bool = False) -> None:
    """Refuse a tensor that a block is not made for.

    Args:
        tensor: What came.
        name: Of the input, for the message.
        sizes: Of its axes: a number that must be met, or a letter for an axis that may have any size.
        integer: Whether it holds integers (INT64, INT32), else it holds FP32 (or another float).

    Raises:
        ValueError: If it is of another rank, size or type.
    """
    taken = f"{'INT64' if integer else 'FP32'} [{', '.join(map(str, sizes))}]"
    if tensor.dim() != len(sizes) or any(
        have != want for have, want in zip(tensor.shape, sizes, strict=True) if isinstance(want, int)
    ):
        raise ValueError(f"{name} of shape {list(tensor.shape)}: this block takes {taken}")
    if tensor.is_floating_point() == integer:
        raise ValueError(f"{name} of {str(tensor.dtype).removeprefix('torch.')}: this block takes {taken}")


def divisible(width: int, by: int, what: str, parts: str) -> int:
    """Return how many times one number goes into another.

    Raises:
        ValueError: If it does not without a rest.
    """
    if by < 1 or width < by or width % by:
        raise ValueError(f"{what} {width} and {parts} {by}: the first is a multiple of the second")
    return width // by


def at_most(length: int, limit: int, what: str) -> None:
    """Refuse what is longer than a block was made for.

    Raises:
        ValueError: If it is.
    """
    if length > limit:
        raise ValueError(f"{what}: this block was made for at most {limit}")


def attention_mask(mask: Tensor) -> Tensor:
    """Turn a mask [N, T] into what 4-D attention takes: BOOL [N, 1, 1, T], true where a key may be attended to."""
    return (mask != 0)[:, None, None]


def zero_padding(frames: Tensor, mask: Tensor) -> Tensor:
    """Put 0 where a mask [N, T] has 0 in frames [N, T, ...], so that convolutions see padding as their own zeros."""
    real = (mask != 0).to(frames.dtype)
    return frames * real[(...,) + (None,) * (frames.dim() - 2)]


def mean_of_real(frames: Tensor, mask: Tensor) -> Tensor:
    """Average frames [N, T, width] over those that a mask [N, T] calls real, to [N, width]; 0 where none is."""
    real = (mask != 0).to(frames.dtype)[:, :, None]
    return (frames * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def class_token(values: int, count: int = 1) -> torch.nn.Parameter:
    """Make tokens [1, count, values] that are learned, drawn as the ViT's are (deviation 0.02)."""
    return torch.nn.Parameter(torch.empty(1, count, values).normal_(std=0.02))

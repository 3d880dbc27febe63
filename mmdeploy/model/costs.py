"""What a PyTorch module costs: parameters, those that are not zero, FLOPs of one sample, bytes as FP32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Name in the metadata: of an export `Costs`, of a pass on a module `CostChange`.
COSTS = "costs"
_FP32_BYTES = 4


@dataclass(frozen=True)
class Costs:
    """Costs of a module.

    Attributes:
        parameters: Numbers that were trained; a tensor that two layers share counts once.
        nonzero_parameters: Those of them that are not exactly zero.
        flops: Floating-point operations of matrix products, convolutions and attention on the inputs given, a
            multiply-add as two (so 2 x MACs). Element-wise operations, norms and softmax are not counted, as in
            `torch.utils.flop_counter`.
        bytes: Size of the parameters as FP32.
    """

    parameters: int
    nonzero_parameters: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class CostChange:
    """Costs before and after a pass on a module; it is in the metadata of the pass under `COSTS`."""

    before: Costs
    after: Costs


def measure(module: nn.Module, inputs: Mapping[str, Tensor]) -> Costs:
    """Count what a module costs.

    Args:
        module: In eval mode.
        inputs: Arguments of ``forward`` by name; with batch 1 the FLOPs are those of one sample.
    """
    import torch

    parameters = list(module.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    return Costs(total, nonzero, count_flops(module, inputs), total * _FP32_BYTES)


def count_flops(module: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Count the floating-point operations of one call; see `Costs.flops`.

    Fused attention kernels of the CPU are unknown to PyTorch's counter, so it runs without them.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())

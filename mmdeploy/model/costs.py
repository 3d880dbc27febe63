"""What a PyTorch module costs: parameters, those that are not zero, FLOPs of one sample, bytes as FP32."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        uncounted: Operators with work of their own, such as an FFT, that ``flops`` leaves out.
    """

    parameters: int
    nonzero_parameters: int
    flops: int
    bytes: int
    uncounted: tuple[str, ...] = ()


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
    flops, uncounted = count_flops(module, inputs)
    return Costs(total, nonzero, flops, total * _FP32_BYTES, uncounted)


def count_flops(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[int, tuple[str, ...]]:
    """Count the floating-point operations of one call, and name the operators left out; see `Costs`.

    Fused kernels of the CPU, of attention and of recurrent layers, are unknown to PyTorch's counter, so it runs without
    them.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    counted = _formulas()
    names = _operator_names(counted)
    try:
        with (
            torch.no_grad(),
            _frozen(module),
            sdpa_kernel(SDPBackend.MATH),
            _without_onednn(),
            names,
            FlopCounterMode(display=False, custom_mapping=counted) as counter,
        ):
            module(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()), tuple(sorted(names.found))


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let nothing ask for a gradient: a view of a parameter does so even without any, which the counter fails on."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """Keep PyTorch from oneDNN's fused recurrent layers; the flags warn of what GPUs lack."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _formulas() -> dict[Any, Any]:
    """Return formulas of products that PyTorch's counter has none for."""
    import math

    import torch

    def of_vector(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        matrix = next(shape for shape in shapes if len(shape) == max(map(len, shapes)))
        return int(2 * math.prod(matrix))

    def of_distance(first: Any, second: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(3 * math.prod(out_shape) * first[-1])

    aten = torch.ops.aten
    vectors = dict.fromkeys((aten.mv, aten.addmv, aten.dot, aten.vdot), of_vector)
    return vectors | {aten._cdist_forward: of_distance}


#: Parts of the names of PyTorch's own operators that take more than a pass over their inputs.
_WORK = (
    "_fft", "linalg", "grid_sampler", "mkldnn", "_rnn", "lstm", "gru", "attention", "_conv", "convolution", "cholesky",
    "triangular_solve", "lu_", "inverse", "svd", "eig", "qr", "_mm", "matmul", "bilinear2d", "bicubic", "trilinear",
)  # fmt: skip
_OWN = ("aten", "prim", "prims", "profiler", "quantized", "mkldnn")


def _operator_names(counted: Mapping[Any, Any]) -> Any:
    """Return a mode that collects, in ``found``, the operators with work that no formula counts."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.found: set[str] = set()

        def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            packet = operator.overloadpacket
            name = str(packet).replace(".", "::", 1)
            space, _, short = name.partition("::")
            heavy = any(part in short for part in _WORK) if space in _OWN else True
            if heavy and packet not in flop_registry and packet not in counted:
                self.found.add(name)
            return operator(*given, **(named or {}))

    return Names()

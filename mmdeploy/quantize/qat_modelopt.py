"""Fake quantizers of NVIDIA's Model Optimizer (modelopt) on chosen layers: put in, calibrated, learned, read.

The only module that imports modelopt. Importing that takes seconds (it pulls in transformers), so it happens inside
functions; what it prints and warns of is kept from the user, and what it raises becomes a `QuantizeError`.

Four things of modelopt 0.47 are gone around. Its histogram calibrator chooses nonsense by ``mse`` (it passes the
number of bits where a bias is taken) and fails on a first batch of zeros: here `MseCalibrator` searches, and
histograms never see zeros alone. Its learned step size (LSQ) exists for blocks of NVFP4 weights only: here it is a
quantization backend registered with it, for activations and INT8 weights alike. And only the chosen layers are given
to it, so no other part of the model is converted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import MmdeployError, QuantizeError
from mmdeploy.quantize import ranges

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

Calibrator = Literal["max", "percentile", "mse"]
#: Largest INT8 code; scales are amax / 127.
LARGEST_CODE = 127
#: Steps between the smallest and the largest of 256 codes.
_CODES = 255
#: What modelopt quantizes to zero: the smallest step of FP16 (tensor_quant.py).
SMALLEST_AMAX = 2.0**-24

_BACKEND = "mmdeploy_learned_step"
#: How much faster a scale's logarithm moves than a weight: TQT (Jain et al., 2020) trains thresholds at a rate
#: orders of magnitude above that of the weights, and Adam moves both by the rate itself.
_SCALE_RATE = 10.0
_MSE_STEP, _MSE_START = 0.02, 0.2


@dataclass(frozen=True)
class Scales:
    """What training found for one layer.

    Attributes:
        input_low: Value of the input that the smallest code stands for; minus ``input_amax`` where symmetric.
        input_amax: Value of the input that the largest code stands for.
        output_low: As of the input; None where the output is not rounded.
        output_amax: The same of the output; None where the output is not rounded.
        weight_amax: The same of the weight, one for each output channel [channels], or one [1].
    """

    input_low: float
    input_amax: float
    output_low: float | None
    output_amax: float | None
    weight_amax: npt.NDArray[np.float32]


def insert(layers: Sequence[nn.Module], *, per_channel: bool, rounded: Sequence[bool], run: Callable[[], None]) -> None:
    """Give layers fake quantizers in place, with ranges up to the largest values.

    Args:
        layers: Linear layers and convolutions.
        per_channel: One scale for each output channel of a weight.
        rounded: Whether the output of each layer is rounded too.
        run: Passes the calibration data through the network around the layers.

    Raises:
        QuantizeError: When modelopt refuses, or an activation is not finite.
    """
    with _modelopt():
        import modelopt.torch.quantization as mtq
        from torch import nn

        outputs = [
            {"quantizer_name": f"{index}.output_quantizer", "cfg": {"num_bits": 8, "axis": None}}
            for index, wanted in enumerate(rounded)
            if wanted
        ]
        weight = {"num_bits": 8, "axis": 0 if per_channel else None, "narrow_range": True}
        config = {
            "quant_cfg": [
                {"quantizer_name": "*", "enable": False},
                {"quantizer_name": "*.weight_quantizer", "cfg": weight},
                {"quantizer_name": "*.input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
                *outputs,
            ],
            "algorithm": "max",
        }
        mtq.quantize(nn.ModuleList(layers), config, lambda _: run())
    for layer in layers:
        if not hasattr(layer, "weight_quantizer"):
            raise QuantizeError(f"nvidia-modelopt has no quantized form of {type(layer).__name__}")


def calibrate(layers: Sequence[Any], *, calibrator: Calibrator, percentile: float, run: Callable[[], None]) -> None:
    """Replace the ranges of activations by those of a better calibrator than the maximum.

    Args:
        layers: What `insert` took.
        calibrator: ``max`` changes nothing; ``percentile`` leaves out the largest values; ``mse`` has the smallest
            squared error.
        percentile: Share of the absolute values kept by ``percentile``, in percent.
        run: As of `insert`.
    """
    if calibrator == "max":
        return
    with _modelopt():
        from modelopt.torch.quantization import calib
        from modelopt.torch.quantization.tensor_quant import fake_tensor_quant

        quantizers = [one for layer in layers for one in _activations(layer)]
        collectors: list[Any] = []
        for one in quantizers:
            if calibrator == "percentile":
                collectors.append(calib.HistogramCalibrator(8, None, False))
            else:
                collectors.append(
                    calib.MseCalibrator(
                        one.amax, step_size=_MSE_STEP, start_multiplier=_MSE_START, stop_multiplier=1.0,
                        quant_func=fake_tensor_quant,
                    )
                )  # fmt: skip
        hooks = [
            one.register_forward_pre_hook(_collecting(into)) for one, into in zip(quantizers, collectors, strict=True)
        ]
        for layer in layers:
            _switch(layer, on=False)
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
            for layer in layers:
                _switch(layer, on=True)
        for one, collector in zip(quantizers, collectors, strict=True):
            found = collector.compute_amax(*(("percentile",) if calibrator == "percentile" else ()), **(
                {"percentile": percentile} if calibrator == "percentile" else {}
            ))  # fmt: skip
            if found is not None:
                one.amax = found.to(one.amax)


def spread(layers: Sequence[Any], *, calibrator: Calibrator, percentile: float, run: Callable[[], None]) -> None:
    """Replace the ranges of activations by asymmetric ones, found as static quantization finds them.

    What is never negative, such as the output of a ReLU, has all 256 codes above zero.

    Args:
        layers: What `insert` took.
        calibrator: As of `calibrate`.
        percentile: Share of the values kept by ``percentile``, in percent.
        run: As of `insert`.
    """
    quantizers = {f"{index}.{place}": one for index, layer in enumerate(layers) for place, one in _placed(layer)}
    how = ranges.Calibration("minmax" if calibrator == "max" else calibrator, percentile)
    collector = ranges.Collector(how)
    with _modelopt():
        for layer in layers:
            _switch(layer, on=False)
        try:
            for collect in (collector.widen, collector.count)[: 1 if calibrator == "max" else 2]:
                hooks = [one.register_forward_pre_hook(_giving(collect, name)) for name, one in quantizers.items()]
                try:
                    run()
                finally:
                    for hook in hooks:
                        hook.remove()
        finally:
            for layer in layers:
                _switch(layer, on=True)
        _register()
        for name, (low, high) in collector.ranges().items():
            scale = max((max(high, 0.0) - min(low, 0.0)) / _CODES, SMALLEST_AMAX / _CODES)
            smallest = round(min(low, 0.0) / scale)
            codes = {"low": smallest, "high": smallest + _CODES, "scale": scale, "asymmetric": True}
            quantizers[name].set_from_attribute_config({"backend": _BACKEND, "backend_extra_args": codes})


def _placed(layer: Any) -> Iterator[tuple[str, Any]]:
    yield from zip(("input", "output"), _activations(layer), strict=False)


def _giving(collect: Callable[[str, Array, str], None], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        collect(name, given[0].detach().float().cpu().numpy(), f"at layer {name}")

    return hook


def _collecting(collector: Any) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].numel() and bool(given[0].any()):
            collector.collect(given[0].detach())

    return hook


def _switch(layer: Any, *, on: bool) -> None:
    for one in (*_activations(layer), layer.weight_quantizer):
        (one.enable_quant if on else one.disable_quant)()


def _activations(layer: Any) -> Iterator[Any]:
    yield layer.input_quantizer
    if layer.output_quantizer.is_enabled:
        yield layer.output_quantizer


def tie_weights(layers: Sequence[Any], groups: Sequence[Sequence[int]]) -> None:
    """Give layers (indices) whose weights will be one tensor with one scale that scale: the largest of theirs."""
    for group in groups:
        quantizers = [layers[index].weight_quantizer for index in group]
        largest = max(float(one.amax) for one in quantizers)
        for one in quantizers:
            one.amax = one.amax.new_full(one.amax.shape, largest)


def learn(layers: Sequence[Any], *, inputs: Sequence[Sequence[int]], weights: Sequence[Sequence[int]]) -> None:
    """Make every scale a parameter that is trained with the weights.

    The gradient is that of LSQ (Esser et al., "Learned Step Size Quantization", 2020); what is trained is the base-2
    logarithm (Jain et al., "Trained Quantization Thresholds", 2020), so a scale stays positive and moves by a
    proportion of itself.

    Args:
        layers: What `insert` took.
        inputs: Groups of layers (indices) that read one tensor, and so have one scale for it.
        weights: Groups of layers (indices) whose weights have one scale.
    """
    with _modelopt():
        import torch
        from torch import nn

        _register()
        for layer in layers:
            for one in (*_activations(layer), layer.weight_quantizer):
                symmetric = {"low": -LARGEST_CODE - (one is not layer.weight_quantizer), "high": LARGEST_CODE}
                codes = _own_codes(one) or symmetric
                amax = torch.tensor(_amax_of(codes)) if "scale" in codes else one.amax.detach().float()
                one.log2_amax = nn.Parameter(torch.log2(amax.clamp_min(SMALLEST_AMAX).reshape(-1)) / _SCALE_RATE)
                one.set_from_attribute_config({"backend": _BACKEND, "backend_extra_args": codes})
        for first, *others in inputs:
            for other in others:
                layers[other].input_quantizer = layers[first].input_quantizer
        for first, *others in weights:
            for other in others:
                layers[other].weight_quantizer = layers[first].weight_quantizer


def _register() -> None:
    from modelopt.torch.quantization.nn import is_registered_quant_backend, register_quant_backend

    if not is_registered_quant_backend(_BACKEND):
        register_quant_backend(_BACKEND, _rounded)


def _own_codes(quantizer: Any) -> Mapping[str, Any] | None:
    """Return the codes that `spread` or `learn` gave a quantizer; None where it is modelopt's own."""
    return quantizer.backend_extra_args if quantizer.backend == _BACKEND else None


def _amax_of(codes: Mapping[str, Any]) -> float:
    """Return what a learned scale is told by: the value of code 127."""
    return float(codes["scale"]) * LARGEST_CODE


def _rounded(inputs: Tensor, quantizer: Any) -> Tensor:
    """Fake-quantize with codes of our own, and a scale that is fixed or takes part in the gradient."""
    codes = quantizer.backend_extra_args
    if hasattr(quantizer, "log2_amax"):
        scale = _learned_amax(quantizer) / LARGEST_CODE
    else:
        scale = inputs.new_tensor(codes["scale"])
    if scale.numel() > 1:
        scale = scale.reshape(-1, *[1] * (inputs.dim() - 1))
    rounded: Tensor = _step_function().apply(inputs, scale, codes["low"], codes["high"])
    return rounded


@functools.cache
def _step_function() -> Any:
    import torch

    class LearnedStep(torch.autograd.Function):
        """Rounding to multiples of a scale, clipped; the gradient of both as in LSQ, sections 2.1 and 2.2.

        One function, because autograd over the single operations takes twice the time and memory.
        """

        @staticmethod
        def forward(ctx: Any, inputs: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
            steps = inputs / scale
            ctx.low, ctx.high = low, high
            ctx.save_for_backward(steps, scale)
            return steps.round().clamp_(low, high).mul_(scale)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
            (gradient,), (steps, scale) = gradients, ctx.saved_tensors
            inside = (steps >= ctx.low) & (steps <= ctx.high)
            if not ctx.needs_input_grad[1]:
                return gradient * inside, None, None, None
            error = steps.round().clamp_(ctx.low, ctx.high).sub_(steps * inside).mul_(gradient)
            damping = (steps.numel() / scale.numel() * ctx.high) ** -0.5
            return gradient * inside, error.sum_to_size(scale.shape) * damping, None, None

    return LearnedStep


def _learned_amax(quantizer: Any) -> Tensor:
    import torch

    exponent: Tensor = quantizer.log2_amax * _SCALE_RATE
    amax: Tensor = torch.exp2(exponent)
    return amax


def scales(layer: Any) -> Scales:
    """Return the scales of a layer as they are now."""
    low, high = _limits(layer.input_quantizer)
    least, most = _limits(layer.output_quantizer) if layer.output_quantizer.is_enabled else (None, None)
    return Scales(low, high, least, most, _amax(layer.weight_quantizer))


def _limits(quantizer: Any) -> tuple[float, float]:
    """Return the values that the smallest and the largest code of an activation stand for."""
    codes = _own_codes(quantizer) or {}
    fixed = "scale" in codes and not hasattr(quantizer, "log2_amax")
    amax = _amax_of(codes) if fixed else float(_amax(quantizer)[0])
    if not codes.get("asymmetric"):  # -128 is what rounding may reach, not the range
        return -amax, amax
    return amax / LARGEST_CODE * codes["low"], amax / LARGEST_CODE * codes["high"]


def _amax(quantizer: Any) -> npt.NDArray[np.float32]:
    import numpy as np

    found = _learned_amax(quantizer) if hasattr(quantizer, "log2_amax") else quantizer.amax
    return np.asarray(found.detach().cpu().float().reshape(-1).numpy(), dtype=np.float32)


@contextlib.contextmanager
def _modelopt() -> Iterator[None]:
    """Keep modelopt quiet, and say what it raises in our words."""
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    except Exception as cause:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if "values in amax" in text:  # of its calibrators; the component's error around it says less
            raise QuantizeError(
                "an activation holds NaN or Inf on the calibration data, though the inputs are finite",
                hint="the model overflows on this data: look at the layer that computes it",
            ) from cause
        if isinstance(cause, MmdeployError):
            raise
        raise QuantizeError(f"nvidia-modelopt cannot quantize the module: {text}") from cause
    finally:
        if printed.getvalue().strip():
            logger.debug("modelopt said:\n%s", printed.getvalue())

"""The learned step size against autograd over its definition, and what of modelopt is gone around."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.quantize import qat_modelopt


def by_definition(inputs: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Esser et al., 2020, appendix A: grad_scale, round_pass, clamp."""
    damping = (inputs.numel() / scale.numel() * high) ** -0.5
    scale = (scale - scale * damping).detach() + scale * damping
    steps = torch.clamp(inputs / scale, low, high)
    return (steps + (steps.round() - steps).detach()) * scale


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    shape=st.sampled_from([(5, 4), (3, 2, 3), (6, 2, 3, 3)]),
    per_channel=st.booleans(),
    codes=st.sampled_from([(-127, 127), (-128, 127), (0, 255), (-17, 238)]),
    size=st.floats(1e-4, 10),
)
def test_the_gradient_is_that_of_the_paper(seed, shape, per_channel, codes, size):
    low, high = codes
    generator = torch.Generator().manual_seed(seed)
    channels = (shape[0], *[1] * (len(shape) - 1)) if per_channel else (1,)
    found = []
    for step in (qat_modelopt._step_function().apply, by_definition):
        generator.manual_seed(seed)
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        scale = (size * (0.1 + torch.rand(channels, generator=generator, dtype=torch.float64))).requires_grad_()
        rounded = step(inputs, scale, low, high)
        rounded.backward(torch.randn(shape, generator=generator, dtype=torch.float64))
        found.append((rounded.detach(), inputs.grad, scale.grad))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_learned_scales_start_where_the_fixed_ones_are():
    torch.manual_seed(2)
    layers = [torch.nn.Linear(8, 4), torch.nn.Conv1d(3, 5, 2)]
    values = [torch.randn(6, 8), torch.randn(6, 3, 9)]

    def run() -> None:
        for layer, value in zip(layers, values, strict=True):
            layer(value)

    qat_modelopt.insert(layers, per_channel=True, rounded=[False, True], run=run)
    fixed = [layer(value).detach() for layer, value in zip(layers, values, strict=True)]
    before = [qat_modelopt.scales(layer) for layer in layers]
    qat_modelopt.learn(layers, inputs=(), weights=())
    for layer, value, wanted, scales in zip(layers, values, fixed, before, strict=True):
        torch.testing.assert_close(layer(value), wanted, atol=1e-5, rtol=1e-5)
        now = qat_modelopt.scales(layer)
        np.testing.assert_allclose(now.weight_amax, scales.weight_amax, rtol=1e-6)
        assert now.input_amax == pytest.approx(scales.input_amax, rel=1e-6)
        assert (now.output_amax is None) == (scales.output_amax is None)
    layers[1](values[1]).sum().backward()
    assert all(
        quantizer.log2_amax.grad is not None
        for quantizer in (layers[1].input_quantizer, layers[1].output_quantizer, layers[1].weight_quantizer)
    )


def test_a_first_batch_of_zeros_does_not_hide_the_rest():
    layer, batches = torch.nn.Linear(4, 2), [torch.zeros(3, 4), torch.linspace(-1, 2, 400).reshape(100, 4)]

    def run() -> None:
        for batch in batches:
            layer(batch)

    qat_modelopt.insert([layer], per_channel=False, rounded=[False], run=run)
    for calibrator, least in (("percentile", 1.9), ("mse", 1.5)):
        qat_modelopt.calibrate([layer], calibrator=calibrator, percentile=99.0, run=run)
        assert least < qat_modelopt.scales(layer).input_amax <= 2.0


def test_an_input_that_is_always_zero_keeps_its_range():
    layer = torch.nn.Linear(4, 2)

    def run() -> None:
        layer(torch.zeros(3, 4))

    qat_modelopt.insert([layer], per_channel=True, rounded=[False], run=run)
    qat_modelopt.calibrate([layer], calibrator="percentile", percentile=99.0, run=run)
    assert qat_modelopt.scales(layer).input_amax == 0.0
    torch.testing.assert_close(layer(torch.zeros(1, 4)), layer.bias.detach()[None])

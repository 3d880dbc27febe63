"""Costs against hand counts and against a counter from another library."""

import pytest
import torch
import torch_pruning
from torch import nn

from mmdeploy.model import costs


def test_linear_by_hand():
    found = costs.measure(nn.Linear(5, 7), {"input": torch.randn(1, 3, 5)})
    assert found.parameters == 5 * 7 + 7
    assert found.bytes == 4 * found.parameters
    assert found.flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 2), (4, 1)])
def test_convolution_by_hand(groups, stride):
    layer = nn.Conv2d(4, 8, 3, padding=1, stride=stride, groups=groups, bias=False)
    side = 6 // stride
    found = costs.measure(layer, {"input": torch.randn(1, 4, 6, 6)})
    assert found.flops == 2 * side * side * 8 * (4 // groups) * 9
    assert found.parameters == 8 * (4 // groups) * 9


def test_zeros_and_shared_tensors():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    with torch.no_grad():
        first.weight[:, :2] = 0.0
    found = costs.measure(nn.Sequential(first, second), {"input": torch.randn(1, 4)})
    assert (found.parameters, found.nonzero_parameters) == (16, 8)
    assert found.flops == 2 * 2 * 16


@pytest.mark.parametrize("need_grad", [True, False])
def test_a_transformer_layer_is_counted_whole_whatever_kernels_it_would_use(need_grad):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval().requires_grad_(need_grad)
    tokens = 5
    projections = 2 * tokens * (4 * 16 * 16 + 2 * 16 * 32)
    attention = 2 * 2 * tokens * tokens * 16
    assert costs.measure(layer, {"src": torch.randn(1, tokens, 16)}).flops == projections + attention


def test_scaled_dot_product_attention_is_counted():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 5, 8)
    assert costs.count_flops(Attention(), {"x": x})[0] == 2 * 2 * 2 * 5 * 5 * 8


def test_agrees_with_another_library_s_counter():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Flatten()
    )
    x = torch.randn(1, 3, 8, 8)
    peer = torch_pruning.utils.count_ops_and_params(network, x, layer_wise=True)[2]
    macs = sum(peer[layer] for layer in network if isinstance(layer, nn.Conv2d))
    assert costs.measure(network, {"input": x}).flops == 2 * macs > 0


@pytest.mark.parametrize(
    ("kind", "gates", "named"),
    [(nn.LSTM, 4, {"num_layers": 2, "bidirectional": True}), (nn.GRU, 3, {}), (nn.RNN, 1, {})],
)
def test_recurrent_layers_count_the_products_of_every_step(kind, gates, named):
    layer, steps = kind(8, 48, batch_first=True, **named).eval(), 40
    widths = [8, 2 * 48][: layer.num_layers]
    sides = 2 if layer.bidirectional else 1
    expected = sum(2 * steps * gates * 48 * (width + 48) * sides for width in widths)
    assert costs.count_flops(layer, {"input": torch.randn(1, steps, 8)}) == (expected, ())


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(33, 4)

    def forward(self, wave):
        return self.head(torch.stft(wave, 64, window=torch.hann_window(64), return_complex=True).abs().mean(-1))


def test_work_that_no_formula_counts_is_named_and_passes_over_elements_are_not():
    assert costs.measure(Spectrum(), {"wave": torch.randn(1, 640)}).uncounted == ("aten::_fft_r2c",)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1)).eval()
    assert costs.measure(plain, {"input": torch.randn(1, 3, 8, 8)}).uncounted == ()


def test_a_product_with_a_vector_counts():
    class Product(nn.Module):
        def forward(self, matrix):
            return matrix[0] @ torch.ones(8)

    assert costs.count_flops(Product(), {"matrix": torch.randn(1, 5, 8)})[0] == 2 * 5 * 8


def test_learned_queries_that_only_part_of_a_module_gets_are_counted():
    """A view of a parameter asks for a gradient even where there is none."""

    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.layer = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 4, bias=False)

        def forward(self, input):
            return self.layer(self.queries.expand(input.shape[0], -1, -1)) + input

    module = Queries()
    found = costs.measure(module, {"input": torch.randn(1, 3, 4)})
    assert found.flops == 2 * 3 * 4 * 4
    assert module.queries.requires_grad

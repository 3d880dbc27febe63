"""LSTM, GRU and RNN over an axis whose length varies: ONNX's own operators, in which the length is open.

torch.export unrolls recurrent layers, so a graph would hold for the length alone that it was traced with. While a
module is traced, its recurrent layers call an operator that torch.export does not look into, one for each layer of
theirs, and which is written as ONNX's LSTM, GRU or RNN. Weights are laid out as ONNX wants them: gates in another
order, both directions in one tensor, GRU with the reset gate after the product, as PyTorch has it.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The place that each of ONNX's gates has among PyTorch's: iofc of ifgo, zrh of rzn.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}


@contextlib.contextmanager
def kept_whole(module: nn.Module | None, component: str) -> Iterator[dict[Any, Any]]:
    """Have recurrent layers traced as one operator a layer; give the translations that `torch.onnx` needs for these.

    Raises:
        ExportError: If a layer does what ONNX's operators do not.
    """
    from torch import nn

    parts = () if module is None else module.named_modules()
    layers = [(path, part) for path, part in parts if isinstance(part, nn.RNNBase)]
    for path, layer in layers:
        if layer.proj_size:
            raise ExportError(
                f"{component}: {path} is an LSTM with proj_size, which ONNX does not have: it can only be "
                "exported at one length",
                hint="write the length as a number in the shape, or project behind the LSTM with a Linear",
            )
    for _, layer in layers:
        layer.__dict__["forward"] = types.MethodType(_forward(layer), layer)
    try:
        yield {_operator(): _written()} if layers else {}
    finally:
        for _, layer in layers:
            del layer.__dict__["forward"]


def _forward(layer: nn.RNNBase) -> Callable[..., Any]:
    """Return what a layer does, in terms of the operator."""
    import torch

    directions = 2 if layer.bidirectional else 1
    weights = [_weights(layer, index, directions) for index in range(layer.num_layers)]
    is_lstm = layer.mode == "LSTM"

    def forward(self: nn.RNNBase, input: Tensor, hx: Any = None) -> Any:
        if not isinstance(input, torch.Tensor) or input.dim() != 3:
            raise TypeError(
                "a recurrent layer is exported with a batch of sequences, no packed or single one: give it the padded "
                "batch, and mask what it answers"
            )
        sequence = input.transpose(0, 1) if self.batch_first else input
        shape = (self.num_layers * directions, sequence.shape[1], self.hidden_size)
        zeros = input.new_zeros(shape)
        hidden, cell = (hx if is_lstm else (hx, zeros)) if hx is not None else (zeros, zeros)
        lasts = []
        for index, own in enumerate(weights):
            rows = slice(index * directions, (index + 1) * directions)
            answers = _operator()(sequence, own, [hidden[rows], cell[rows]], layer.mode)
            sequence = answers[0].permute(0, 2, 1, 3).flatten(2)
            lasts.append(answers[1:])
        output = sequence.transpose(0, 1) if self.batch_first else sequence
        last_hidden, last_cell = (torch.cat(parts) for parts in zip(*lasts, strict=True))
        return output, ((last_hidden, last_cell) if is_lstm else last_hidden)

    return forward


def _weights(layer: nn.RNNBase, index: int, directions: int) -> list[Tensor]:
    """Return the weights of a layer as ONNX lays them out: of the input, recurrent, and both biases in one."""
    import torch

    def laid_out(kind: str, suffix: str) -> Tensor:
        values = getattr(layer, f"{kind}_l{index}{suffix}").detach()
        parts = values.chunk(len(_GATES[layer.mode]))
        return torch.cat([parts[place] for place in _GATES[layer.mode]])

    suffixes = ("", "_reverse")[:directions]
    own = torch.stack([laid_out("weight_ih", suffix) for suffix in suffixes])
    recurrent = torch.stack([laid_out("weight_hh", suffix) for suffix in suffixes])
    if not layer.bias:
        return [own, recurrent, own.new_zeros(directions, 2 * own.shape[1])]
    biases = [torch.cat([laid_out("bias_ih", suffix), laid_out("bias_hh", suffix)]) for suffix in suffixes]
    return [own, recurrent, torch.stack(biases)]


@functools.cache
def _operator() -> Any:
    """Return the operator that stands for one layer; it is only ever traced."""
    import torch

    def recurrent(sequence: Tensor, weights: list[Tensor], state: list[Tensor], mode: str) -> Any:
        raise NotImplementedError("only traced")

    # PyTorch reads the annotations, which are text by the import of `annotations`.
    recurrent.__annotations__ = {
        "sequence": torch.Tensor, "weights": list[torch.Tensor], "state": list[torch.Tensor], "mode": str,
        "return": tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    }  # fmt: skip
    made = torch.library.custom_op("mmdeploy::recurrent", recurrent, mutates_args=())

    @made.register_fake
    def _shapes(sequence: Tensor, weights: list[Tensor], state: list[Tensor], mode: str) -> Any:
        steps, rows = sequence.shape[:2]
        directions, _, size = weights[1].shape
        return (
            sequence.new_empty(steps, directions, rows, size),
            *(torch.empty_like(one, memory_format=torch.contiguous_format) for one in state),
        )

    return torch.ops.mmdeploy.recurrent.default


@functools.cache
def _written() -> Callable[..., Any]:
    """Return how the operator is written in ONNX."""
    from onnxscript import opset20 as op

    def recurrent(sequence: Any, weights: Any, state: Any, mode: str) -> Any:
        directions, _, size = weights[1].shape
        direction = "bidirectional" if directions == 2 else "forward"
        shared: dict[str, Any] = {"hidden_size": int(size), "direction": direction}
        given = (sequence, *weights, None, state[0])
        if mode == "LSTM":
            return op.LSTM(*given, state[1], **shared)
        if mode == "GRU":
            output, last = op.GRU(*given, linear_before_reset=1, **shared)
        else:
            activation = mode.removeprefix("RNN_").capitalize()
            output, last = op.RNN(*given, activations=[activation] * int(directions), **shared)
        return output, last, op.Identity(state[1])

    return recurrent

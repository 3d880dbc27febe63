"""`nn.MultiheadAttention` as four linear layers, so that each of its products with a weight can be fake-quantized.

PyTorch's module multiplies inside one function, with the three input projections packed into one matrix: quantizers
attached to its submodules are never asked. `separate` makes a module of the same signature and the same answers from
plain layers, `pack` writes what was trained into the original's parameters again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The layers of a separated attention, in the order of their rows in the packed parameter; the last stands alone.
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
OUTPUT = "out_proj"
#: Arguments of `nn.MultiheadAttention.forward` after queries, keys and values, in order. ``is_causal`` is a hint only:
#: the mask that it speaks of must be given too.
_DEFAULTS: Mapping[str, Any] = {
    "key_padding_mask": None, "need_weights": True, "attn_mask": None, "average_attn_weights": True, "is_causal": False,
}  # fmt: skip


def unsupported(attention: nn.MultiheadAttention) -> str | None:
    """Say why an attention cannot be separated; None when it can."""
    from torch import nn
    from torch.nn.utils import parametrize

    if type(attention).forward is not nn.MultiheadAttention.forward:
        return "its forward is not PyTorch's own"
    if any(parametrize.is_parametrized(part) for part in attention.modules()):
        return "its weights are parametrized"
    if "weight" not in attention.out_proj._parameters:
        return "its weights are computed anew in each pass"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds a learned or a zero token (add_bias_kv, add_zero_attn)"
    return None


def place(attention: Any, projection: str) -> tuple[str, tuple[int, int] | None]:
    """Return which parameter of an attention, or of the one separated from it, holds a projection, and in which rows.

    Args:
        attention: Of PyTorch, or what `separate` made of one.
        projection: One of `PROJECTIONS`, or `OUTPUT`.

    Returns:
        The parameter's name in PyTorch's module, and the first row and the one after the last; None for all rows.
    """
    if projection == OUTPUT:
        return f"{OUTPUT}.weight", None
    if not attention._qkv_same_embed_dim:
        return f"{projection}_weight", None
    start = PROJECTIONS.index(projection) * attention.embed_dim
    return "in_proj_weight", (start, start + attention.embed_dim)


def separate(attention: nn.MultiheadAttention) -> nn.Module:
    """Make a module of plain linear layers that answers as the attention does."""
    import torch
    from torch import nn

    class SeparateAttention(nn.Module):
        """Multi-head attention that is called as `nn.MultiheadAttention` is."""

        def __init__(self) -> None:
            super().__init__()
            width, biased = attention.embed_dim, attention.in_proj_bias is not None
            self.embed_dim, self.num_heads, self.head_dim = width, attention.num_heads, attention.head_dim
            self.dropout, self.batch_first = attention.dropout, attention.batch_first
            self._qkv_same_embed_dim = attention.in_proj_weight is not None
            self.q_proj = nn.Linear(width, width, bias=biased)
            self.k_proj = nn.Linear(attention.kdim, width, bias=biased)
            self.v_proj = nn.Linear(attention.vdim, width, bias=biased)
            self.out_proj = nn.Linear(width, width, bias=attention.out_proj.bias is not None)

        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
        ) -> tuple[Tensor, Tensor | None]:
            """Answer as `nn.MultiheadAttention.forward`, whose arguments these are."""
            options = {**_DEFAULTS, **dict(zip(_DEFAULTS, rest, strict=False)), **named}
            return _attend(self, (query, key, value), options)

    made = SeparateAttention()
    with torch.no_grad():
        for projection in (*PROJECTIONS, OUTPUT):
            layer = getattr(made, projection)
            weight, bias = _original(attention, projection)
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
    return made.train(attention.training)


def _attend(own: Any, given: tuple[Tensor, ...], options: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Project, attend and join heads.

    Args:
        own: The separated attention.
        given: Queries, keys and values, each [N, T, E], [T, N, E] or [T, E].
        options: The other arguments of `nn.MultiheadAttention.forward`, by name.
    """
    import torch
    from torch import nn

    batched = given[0].dim() == 3
    projected = (getattr(own, name)(tensor) for name, tensor in zip(PROJECTIONS, given, strict=True))
    query, key, value = (_heads(tensor, own, batched=batched) for tensor in projected)
    scores = query @ key.transpose(-2, -1) * own.head_dim**-0.5
    mask = _merged(options["attn_mask"], options["key_padding_mask"], like=query, columns=key.shape[-2])
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    found = nn.functional.dropout(weights, own.dropout, own.training) @ value
    joined = found.transpose(1, 2).flatten(2)
    if not batched:
        joined = joined.squeeze(0)
    elif not own.batch_first:
        joined = joined.transpose(0, 1)
    answer = own.out_proj(joined)
    if not options["need_weights"]:
        return answer, None
    shown = weights.mean(dim=1) if options["average_attn_weights"] else weights
    return answer, shown if batched else shown.squeeze(0)


def pack(separated: nn.Module, attention: nn.MultiheadAttention) -> None:
    """Write the weights of a separated attention into an original one, in place."""
    import torch

    with torch.no_grad():
        for projection in (*PROJECTIONS, OUTPUT):
            layer = getattr(separated, projection)
            weight, bias = _original(attention, projection)
            weight.copy_(layer.weight)
            if bias is not None:
                bias.copy_(layer.bias)


def _original(attention: nn.MultiheadAttention, projection: str) -> tuple[Tensor, Tensor | None]:
    """Return the views of the original's parameters that hold a projection."""
    if projection == OUTPUT:
        return attention.out_proj.weight, attention.out_proj.bias
    parameter, part = place(attention, projection)
    weight = getattr(attention, parameter)
    start = PROJECTIONS.index(projection) * attention.embed_dim
    bias = attention.in_proj_bias
    return (
        weight if part is None else weight[part[0] : part[1]],
        None if bias is None else bias[start : start + attention.embed_dim],
    )


def _heads(tensor: Tensor, attention: Any, *, batched: bool) -> Tensor:
    """Split [N, T, E], [T, N, E] or [T, E] into heads [N, heads, T, E / heads]."""
    if not batched:
        tensor = tensor.unsqueeze(0)
    elif not attention.batch_first:
        tensor = tensor.transpose(0, 1)
    return tensor.reshape(*tensor.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _merged(attention: Tensor | None, padding: Tensor | None, *, like: Tensor, columns: int) -> Tensor | None:
    """Add up masks as one term of the scores; true, as -inf, hides a position."""
    merged = None
    if attention is not None:
        term = _term(attention, like)
        merged = term if term.dim() == 2 else term.reshape(like.shape[0], -1, *term.shape[1:])
    if padding is not None:
        term = _term(padding, like).reshape(-1, 1, 1, columns)
        merged = term if merged is None else merged + term
    return merged


def _term(mask: Tensor, like: Tensor) -> Tensor:
    import torch

    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))

"""Weights that a layer computes from others, such as under weight normalization, as plain parameters and back.

A fake quantizer rounds the weight that is multiplied, and its scale belongs to that weight: so it is trained as one
tensor, and given back to what computes it when training is over. That is exact for weight normalization, w = g v / |v|
(Salimans and Kingma, 2016): v becomes the weight and g its norms. A parametrization of another kind is asked whether
it takes back any weight; the others (spectral normalization, masks) are left as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Largest difference to a weight that was given back, relative to its largest value.
_SAME = 1e-5


def is_computed(part: nn.Module) -> bool:
    """Say whether a layer has a weight that is no parameter of its own."""
    return "weight" not in part._parameters


def read(part: Any) -> Tensor:
    """Return the weight of a layer as its forward pass has it now."""
    import torch

    with torch.no_grad():
        hook = _weight_norm_hook(part)
        weight: Tensor = part.weight if hook is None else hook.compute_weight(part)
        return weight.detach().clone()


def put(part: Any, weight: Tensor) -> None:
    """Give a layer a weight, through whatever computes it."""
    import torch

    with torch.no_grad():
        if not is_computed(part):
            part.weight.copy_(weight)
        elif (norm := _weight_norm(part)) is not None:
            gain, direction, axis = norm
            norms = torch.norm_except_dim(weight, 2, axis)
            # A row of zeros has no direction: it keeps the one that it had.
            direction.copy_(torch.where(norms > 0, weight, direction))
            gain.copy_(norms.reshape(gain.shape))
        else:
            part.weight = weight


def obstacle(part: Any) -> str | None:
    """Say why the computed weight of a layer cannot be trained as a plain one; None when it can."""
    import torch
    from torch.nn.utils import parametrize

    if _weight_norm(part) is None and not parametrize.is_parametrized(part, "weight"):
        return "a hook computes its weight anew in each pass"
    saved = {name: tensor.detach().clone() for name, tensor in part.state_dict().items()}
    wanted = read(part)
    wanted += 0.1 * wanted.abs().max() * torch.cos(torch.arange(wanted.numel(), dtype=wanted.dtype)).view_as(wanted)
    try:
        put(part, wanted)
        error = float((read(part) - wanted).abs().max())
    except Exception as cause:  # noqa: BLE001 - the parametrization's own code, which may not invert at all
        return f"its parametrization does not take a weight back ({type(cause).__name__})"
    finally:
        part.load_state_dict(saved)
    if not error <= _SAME * float(wanted.abs().max()):
        return "its parametrization does not take back any weight"
    return None


def make_plain(part: Any) -> None:
    """Turn the computed weight of a layer into a parameter."""
    from torch import nn
    from torch.nn.utils import parametrize, remove_weight_norm

    trained = any(tensor.requires_grad for tensor in part.parameters())
    weight = read(part)
    if parametrize.is_parametrized(part, "weight"):
        parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
        del part._parameters["weight"]
    else:
        remove_weight_norm(part)
        del part._parameters["weight"]
    part.register_parameter("weight", nn.Parameter(weight, requires_grad=trained))


def _weight_norm(part: Any) -> tuple[Tensor, Tensor, int] | None:
    """Return gain, direction and the axis of the norms of a normalized weight; None where it is none."""
    from torch.nn.utils import parametrizations, parametrize

    hook = _weight_norm_hook(part)
    if hook is not None:
        return part.weight_g, part.weight_v, hook.dim
    if not parametrize.is_parametrized(part, "weight"):
        return None
    chain = part.parametrizations.weight
    if len(chain) == 1 and isinstance(chain[0], parametrizations._WeightNorm):
        return chain.original0, chain.original1, chain[0].dim
    return None


def _weight_norm_hook(part: Any) -> Any:
    """Return the hook of the older `torch.nn.utils.weight_norm` on a layer's weight; None where there is none."""
    from torch.nn.utils.weight_norm import WeightNorm

    hooks = part._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, WeightNorm) and hook.name == "weight"), None)

"""Which modules of a model work with tensors of others: weights that are tied, modules that are reached past the tree.

A state dict names a tensor by the module that holds it. Where two modules hold one tensor, or one keeps another in a
plain attribute, a list or a dict, both depend on it, although the name is below one of them only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: Containers in containers that are looked into.
_DEPTH = 4


def shared_names(model: nn.Module) -> list[tuple[str, str]]:
    """Return pairs of names in a model: whatever has the first, or lies within it, works with the second, too.

    Names are those of the state dict, or of modules. What lies below the first by its own name is not told.
    """
    pairs = [*_tied(model), *_reached(model)]
    return sorted({(user, used) for user, used in pairs if user != used and not used.startswith(f"{user}.")})


def common_part(one: nn.Module, other: nn.Module, *, weights_too: bool) -> str | None:
    """Say what two modules have in common; None for nothing.

    Args:
        one: A component's module.
        other: Another's.
        weights_too: Whether a part, or a tied weight, in both counts, and not only that both are the same module.
    """
    if one is other:
        return "everything"
    if not weights_too:
        return None
    held = {id(part) for part in other.modules()}
    for name, part in one.named_modules():
        if id(part) in held and any(True for _ in part.parameters()):
            return f"the module {name!r}" if name else "everything"
    weights = {id(parameter) for parameter in other.parameters()}
    found = next((name for name, parameter in one.named_parameters() if id(parameter) in weights), None)
    return None if found is None else f"the weight {found!r}"


def _tied(model: nn.Module) -> Iterator[tuple[str, str]]:
    holders: dict[int, list[str]] = defaultdict(list)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if hasattr(tensor, "data_ptr") and tensor.numel():
            holders[tensor.untyped_storage().data_ptr()].append(name)
    for names in holders.values():
        yield from ((user, used) for user in names for used in names)


def _reached(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Give modules and parameters that a module keeps elsewhere than PyTorch registers them."""
    from torch import Tensor, nn

    names: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[id(module)].append(name)
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names[id(tensor)].append(name)
    for several in names.values():
        yield from ((user, used) for user in several for used in several if user and used)
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if not key.startswith("_") or "hooks" not in key}
        registered = ("_modules", "_parameters", "_buffers")
        for value in _values({key: item for key, item in plain.items() if key not in registered}, _DEPTH):
            if isinstance(value, nn.Module | Tensor) and value is not module:
                yield from ((name, used) for used in names.get(id(value), ()) if name)


def _values(value: Any, depth: int) -> Iterator[Any]:
    yield value
    inner = value.values() if isinstance(value, Mapping) else value
    if depth and isinstance(value, Mapping | list | tuple | set):
        for item in inner:
            yield from _values(item, depth - 1)

"""Where a model fails on samples: the module that could not take what it was given, and what it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Tensors that a message shows at most.
_SHOWN = 4
#: By the kind of a layer, what says how wide its input is: in the last axis, or in axis 1 of a batch, its channels.
_LAST = {
    "Linear": "in_features", "LayerNorm": "normalized_shape", "RMSNorm": "normalized_shape", "RNNBase": "input_size",
    "RNNCellBase": "input_size", "MultiheadAttention": "embed_dim",
}  # fmt: skip
_CHANNELS = {"_ConvNd": "in_channels", "_BatchNorm": "num_features", "GroupNorm": "num_channels"}


@dataclass(frozen=True)
class Failure:
    """What a model could not do.

    Attributes:
        text: The module and what it was given, such as ``readings.0 (Linear) takes 5 in the last axis, and was
            given float32 [2, 6] (the input 'readings')``.
        inputs: The inputs that this is made of.
        direct: Whether it is the one input itself, unchanged.
        takes: Of a direct input, the type that the module computes in; empty where the type is right.
        axis: The axis of a batch that has another length than ``width``; None where none has.
        width: What the module takes there.
    """

    text: str
    inputs: tuple[str, ...] = ()
    direct: bool = False
    takes: str = ""
    axis: int | None = None
    width: int = 0


@dataclass
class _Seen:
    """What was called when it failed.

    Attributes:
        origins: The inputs that a tensor is made of, by its identity; with the tensor, so that none is used twice.
        calls: The modules that are being called, the innermost last, with their tensors.
        function: Name and tensors of the function of torch that failed.
    """

    origins: dict[int, tuple[frozenset[str], Any]] = field(default_factory=dict)
    calls: list[tuple[str, nn.Module, list[Tensor]]] = field(default_factory=list)
    function: tuple[str, list[Tensor]] | None = None

    def of(self, tensors: list[Tensor]) -> frozenset[str]:
        """Return the inputs that tensors are made of."""
        return frozenset().union(*(self.origins[id(one)][0] for one in tensors if id(one) in self.origins))


def failure(model: nn.Module, answer: Callable[[], object], feed: Mapping[str, Tensor]) -> Failure | None:
    """Call a model that fails once more, and say where; None where it does not fail again, or outside of torch.

    Args:
        model: It, in eval mode.
        answer: Calls it once with ``feed``.
        feed: What it is called with, by the input's name.
    """
    seen = _Seen({id(tensor): (frozenset([name]), tensor) for name, tensor in feed.items()})
    try:
        return _told(seen, feed) if _fails(model, answer, seen) else None
    except Exception:  # noqa: BLE001 - a model that cannot be watched; what it raised is told by whoever asks
        return None


def _fails(model: nn.Module, answer: Callable[[], object], seen: _Seen) -> bool:
    import torch

    paths = {part: path for path, part in reversed([*model.named_modules(remove_duplicate=False)])}
    with contextlib.ExitStack() as hooks:
        for part, path in paths.items():
            before, after = _hooks(seen, path)
            hooks.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(after).remove)
        try:
            with torch.no_grad(), _functions(seen):
                answer()
        except Exception:  # noqa: BLE001 - that of before
            return True
    return False


def _hooks(seen: _Seen, path: str) -> tuple[Any, Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.calls.append((path, module, [*_tensors_in((args, kwargs))]))
        seen.function = None

    def after(module: nn.Module, args: tuple[Any, ...], returned: object) -> None:
        while seen.calls and seen.calls.pop()[1] is not module:
            pass

    return before, after


def _functions(seen: _Seen) -> Any:
    """Return a context that follows which inputs each tensor is made of."""
    from torch.overrides import TorchFunctionMode

    class Following(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            taken = [*_tensors_in((args, kwargs or {}))]
            try:
                result = func(*args, **(kwargs or {}))
            except Exception:
                seen.function = seen.function or (getattr(func, "__name__", str(func)), taken)
                raise
            origin = seen.of(taken)
            seen.origins.update({id(one): (origin, one) for one in _tensors_in(result) if id(one) not in seen.origins})
            return result

    return Following()


def _tensors_in(value: object) -> Iterator[Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in([*value.values()])
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors_in(one)


def _told(seen: _Seen, feed: Mapping[str, Tensor]) -> Failure | None:
    path, module, given = seen.calls[-1] if seen.calls else ("", None, [])
    own = module is not None and type(module).__module__.startswith("torch.nn.")
    place = f"{path} ({type(module).__name__})" if path else type(module).__name__
    if module is None or not (given if own else seen.function):
        return None
    if not own and seen.function is not None:
        name, tensors = seen.function
        return Failure(f"in {place}, {name} was given {_shown(tensors, seen, feed)}") if tensors else None
    first = given[0]
    wrong_type, takes = _type_wanted(module, first)
    wrong_width, axis, width = _width_wanted(module, first)
    wanted = " and ".join(filter(None, (wrong_type, wrong_width)))
    was = f"takes {wanted}, and was given" if wanted else "was given"
    direct = any(tensor is first for tensor in feed.values())
    return Failure(f"{place} {was} {_shown(given, seen, feed)}", _inputs(first, seen, feed), direct, takes, axis, width)


def _type_wanted(module: nn.Module, given: Tensor) -> tuple[str, str]:
    """Say what a layer takes that a tensor's values are not, and the type where it is that."""
    if (ids := getattr(module, "num_embeddings", None)) is not None:
        if given.is_floating_point() or given.dtype.itemsize < 4:
            return "ids, whole numbers of int64", "int64"
        low, high = (int(given.min()), int(given.max())) if given.numel() else (0, 0)
        return ("" if low >= 0 and high < ids else f"ids from 0 to {ids - 1} (these are {low} to {high})"), ""
    computes = next((one.dtype for one in module.parameters(recurse=False) if one.is_floating_point()), given.dtype)
    name = str(computes).removeprefix("torch.")
    return (name, name) if computes != given.dtype else ("", "")


def _width_wanted(module: nn.Module, given: Tensor) -> tuple[str, int | None, int]:
    """Say how wide a layer takes what a tensor is not, in which axis of a batch, and as a number."""
    for kind in (one.__name__ for one in type(module).__mro__):
        if kind in _LAST or kind in _CHANNELS:
            found = getattr(module, _LAST.get(kind) or _CHANNELS[kind])
            width = int(found[-1] if isinstance(found, tuple) else found)
            axis = given.ndim - 1 if kind in _LAST else 1
            if given.ndim < 2 or given.shape[axis] == width:
                break
            what = f"{width} in the last axis" if kind in _LAST else f"{width} in axis 1, its channels"
            return what, axis, width
    return "", None, 0


def _shown(tensors: list[Tensor], seen: _Seen, feed: Mapping[str, Tensor]) -> str:
    told = [_one_shown(tensor, seen, feed) for tensor in tensors[:_SHOWN]]
    more = len(tensors) - len(told)
    return ", ".join([*told, *([f"{more} more"] if more else [])])


def _one_shown(tensor: Tensor, seen: _Seen, feed: Mapping[str, Tensor]) -> str:
    text = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    same = next((name for name, one in feed.items() if one is tensor), None)
    if same is not None:
        return f"{text} (the input {same!r})"
    made = _inputs(tensor, seen, feed)
    return f"{text} (made of {' and '.join(map(repr, made))})" if made else text


def _inputs(tensor: Tensor, seen: _Seen, feed: Mapping[str, Tensor]) -> tuple[str, ...]:
    of = seen.of([tensor])
    return tuple(name for name in feed if name in of)

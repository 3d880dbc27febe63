"""What happens inside a model while it answers: which modules are called, with which tensors, and what lies between.

Tensors are told apart by identity, and by the count of changes in place that PyTorch keeps for each: a tensor that a
module gave and another took unchanged is the same one; anything else was made in between, by operations that no module
holds. Those that the model's own forward calls are written down with their line.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import kind_of
from mmdeploy.scaffold.lines import line_above, line_of_call

if TYPE_CHECKING:
    from torch import Tensor, nn

#: A tensor as one moment saw it: its identity, and how often it had been changed in place.
Key = tuple[int, int]
#: The name of what a module returns where it returns one tensor and says no name.
ONLY = "output"
#: Functions that make a Python value of a tensor: what follows from it is decided by the samples.
_READING = {"__bool__", "__float__", "__index__", "__int__", "item", "tolist"}


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: Attribute path of the module in the model; empty for the model itself.
        module: The module.
        parent: The call inside which it was made; None of the model's own.
        inputs: The tensors that it took, by the name of forward's parameter.
        unnamed: What a recipe cannot say of how it was called; empty where it can say all.
        outputs: The tensors that it gave, by name, in order.
        returned: How it gave them: "tensor", "tuple" or "mapping"; else what it is, which no component can return.
        below: The calls made inside of it, in order.
    """

    path: str
    module: nn.Module
    parent: Call | None = None
    inputs: dict[str, Key] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    outputs: dict[str, Key] = field(default_factory=dict)
    returned: str = ""
    below: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Operation:
    """Something that the model's own forward does to tensors, outside of all modules.

    Attributes:
        name: Of the function.
        inputs: The tensors that it took.
        outputs: The tensors that it gave.
        line: The line of the user's code, ``model.py:12: text``.
    """

    name: str
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    line: str


@dataclass
class Record:
    """One answer of a model, taken apart.

    Attributes:
        whole: The call of the model.
        operations: What was done between the modules that the model's forward calls.
        tensors: Every tensor that was seen, by key: held, so that no identity is used twice.
        decisions: Lines of the user's code that read a tensor's values, and may go on in one way or another by them.
    """

    whole: Call
    operations: list[Operation] = field(default_factory=list)
    tensors: dict[Key, Tensor] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)

    def key(self, tensor: Tensor) -> Key:
        """Return what tells a tensor from all others, as it is now."""
        found = (id(tensor), int(tensor._version))
        self.tensors.setdefault(found, tensor)
        return found

    def made_by(self, key: Key) -> Iterator[Operation]:
        """Give the operations that a tensor came from, the last first, back to what modules gave."""
        waiting, seen = [key], set[Key]()
        for operation in reversed(self.operations):
            if not seen.isdisjoint(operation.outputs) or not {*waiting}.isdisjoint(operation.outputs):
                yield operation
                waiting += operation.inputs
                seen.update(operation.inputs)


def record(model: nn.Module, answer: Callable[[], object], feed: Mapping[str, Tensor]) -> Record:
    """Let a model answer and write down what it calls.

    Args:
        model: The model, in eval mode.
        answer: Calls it, once, and returns what it gives.
        feed: What it is called with, by name.
    """
    import torch

    kept = Record(Call("", model, returned="nothing"))
    kept.whole.inputs = {name: kept.key(tensor) for name, tensor in feed.items()}
    now = [kept.whole]
    names = {part: path for path, part in reversed([*model.named_modules(remove_duplicate=False)]) if path}
    with contextlib.ExitStack() as hooks:
        for part, path in names.items():
            before, after = _hooks(kept, now, path)
            hooks.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(after, with_kwargs=True).remove)
        with torch.no_grad(), _between(kept, now):
            returned = answer()
    kept.whole.outputs, kept.whole.returned = _returned(returned, kept)
    return kept


def _hooks(kept: Record, now: list[Call], path: str) -> tuple[Any, Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(path, module, now[-1])
        call.inputs, call.unnamed = _arguments(module, args, kwargs, kept)
        now[-1].below.append(call)
        now.append(call)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: object) -> None:
        call = now.pop()
        call.outputs, call.returned = _returned(returned, kept)

    return before, after


def _arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], kept: Record
) -> tuple[dict[str, Key], tuple[str, ...]]:
    """Return the tensors that a call hands over by name, and what of it a recipe could not say."""
    import torch

    parameters = inspect.signature(module.forward).parameters
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except TypeError as error:
        return {}, (str(error),)
    named, unnamed = dict[str, Key](), list[str]()
    for name, value in bound.items():
        kind = parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            more = {key: one for key, one in value.items() if one is not None}
            named.update({key: kept.key(one) for key, one in more.items() if isinstance(one, torch.Tensor)})
            unnamed += [f"{key}={_shown(one)}" for key, one in more.items() if not isinstance(one, torch.Tensor)]
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            unnamed += [f"{len(value)} values without a name (*{name})"] if value else []
        elif isinstance(value, torch.Tensor):
            named[name] = kept.key(value)
            unnamed += [f"{name} by place only"] if kind is inspect.Parameter.POSITIONAL_ONLY else []
        elif value is not parameters[name].default and value != parameters[name].default:
            unnamed.append(f"{name}={_shown(value)}")
    return named, tuple(unnamed)


def _shown(value: object) -> str:
    plain = value is None or isinstance(value, bool | int | float | str)
    return repr(value) if plain else kind_of(value)


def _returned(returned: object, kept: Record) -> tuple[dict[str, Key], str]:
    """Return the tensors that a call gave by name, and in which form."""
    import torch

    if isinstance(returned, torch.Tensor):
        return {ONLY: kept.key(returned)}, "tensor"
    if isinstance(returned, Mapping):
        named = {str(key): one for key, one in returned.items() if isinstance(one, torch.Tensor)}
        others = [kind_of(one) for one in returned.values() if one is not None]
        form = "mapping" if named else f"{kind_of(returned)} with {others[0] if others else 'nothing'} in it"
        return {key: kept.key(one) for key, one in named.items()}, form
    if isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", tuple(f"{ONLY}_{index}" for index in range(len(returned))))
        tensors = {name: one for name, one in zip(names, returned, strict=True) if isinstance(one, torch.Tensor)}
        whole = len(tensors) == len(returned)
        others = [kind_of(one) for one in returned if not isinstance(one, torch.Tensor)]
        held = others[0] if others else "nothing"
        form = "tuple" if whole and returned else f"a {type(returned).__name__} with {held} in it"
        return {name: kept.key(one) for name, one in tensors.items()}, form
    return {}, kind_of(returned)


def _between(kept: Record, now: list[Call]) -> Any:
    """Return a context that writes down what the model's own forward does outside of its modules."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Between(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in _READING and (line := line_of_call()) not in ("", *kept.decisions):
                kept.decisions.append(line)
            if len(now) > 1:
                return func(*args, **(kwargs or {}))
            taken = [*_tensors_in((args, kwargs or {}))]
            before = tuple(kept.key(one) for one in taken)
            result = func(*args, **(kwargs or {}))
            given = tuple(kept.key(one) for one in [*_tensors_in(result), *taken])
            made = tuple(key for key in dict.fromkeys(given) if key not in before)
            if made:
                name = getattr(func, "__name__", str(func))
                kept.operations.append(Operation(name, before, made, line_above()))
            return result

    def _tensors_in(value: object) -> Iterator[Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            for one in value:
                yield from _tensors_in(one)
        elif isinstance(value, Mapping):
            for one in value.values():
                yield from _tensors_in(one)

    return Between()

"""Every function of torch that a model calls while it answers, by the line of the user's code that calls it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from mmdeploy.model.user_code import is_user_file
from mmdeploy.scaffold.lines import decides_later, line_above, line_at, line_of_call
from mmdeploy.scaffold.lookable import refuse_answer
from mmdeploy.scaffold.seeds import drawn_elsewhere, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

#: A line that goes one way or another.
_DECIDES = re.compile(r"^(if|elif|while)\b|\bif\b.*\belse\b")
_BY_VALUE = {"argwhere", "masked_select", "nonzero", "unique", "unique_consecutive"}
_FOURIER = {"fft", "fft2", "fftn", "ifft", "ifft2", "irfft", "istft", "rfft", "rfft2", "stft"}
_NUMBERS = {"__float__", "__index__", "__int__", "item", "tolist"}
_SCATTERS = {"index_reduce", "index_reduce_", "scatter_reduce", "scatter_reduce_"}


@dataclass
class Watched:
    """What a model did in one call.

    Attributes:
        outputs: Its tensors, by name or place.
        events: How often each form was seen, by form and line.
        kept: What it keeps of the call, by line: the line, and the attribute.
        calls: How often each line of the user's code called a function of torch.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: dict[tuple[str, str], None] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


def watched(answer: Callable[[], object], model: nn.Module | None = None) -> Watched:
    """Let a model answer, and write down what it calls. Numbers that it draws are the same in every call.

    Args:
        answer: Calls it once and returns what it gives.
        model: It, where what it keeps of the call is asked too.
    """
    import torch

    from mmdeploy.export.demands import changed_state, state_of

    seen = Watched()
    before = {} if model is None else state_of(model)
    chance = lambda line: seen.events.update([("chance", line)])  # noqa: E731
    with torch.no_grad(), seeded(), drawn_elsewhere(chance), _setting(seen), _operators(seen, model), _functions(seen):
        returned = answer()
    named = dict(_named(returned))
    refuse_answer(named)
    seen.outputs = {name: tensor.detach().clone() for name, tensor in named.items()}
    seen.events = _joined(seen.events)
    if model is not None and not seen.kept and (label := changed_state(before, state_of(model))) is not None:
        seen.kept[_mention(model, label), label] = None
    return seen


def _functions(seen: Watched) -> Any:
    from torch.overrides import TorchFunctionMode

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            line = line_of_call() if name != "__get__" else ""
            if line:
                seen.calls[line] += 1
                if (form := _form(name, args, kwargs, line)) is not None:
                    seen.events[form, line] += 1
            return func(*args, **kwargs)

    return Functions()


def _form(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], line: str) -> str | None:
    """Return which form of `mmdeploy.scaffold.forms` a call is; None where it is none."""
    text = line.partition(": ")[2].strip()
    if name == "__bool__":
        return None if text.startswith("assert ") else "decision"  # the exporter leaves assertions out
    if name in _NUMBERS:
        return "decision" if _DECIDES.search(text) or decides_later() else "value"
    if name in _BY_VALUE or _picks_rows(name, args, kwargs):
        return "rows by value"
    if name == "scaled_dot_product_attention" and (args[0] if args else kwargs["query"]).ndim == 3:
        return "three-axis attention"
    if name in _SCATTERS and "mean" in (*args, *kwargs.values()):
        return "mean by scatter"
    if name in {"amax", "amin"} and len(args) == 1 and "dim" not in kwargs:
        return "extreme of all"
    return "Fourier transform" if name.removeprefix("fft_") in _FOURIER else None


def _picks_rows(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    import torch

    if name == "where":
        return len(args) + len(kwargs) == 1
    if name == "repeat_interleave":
        return any(isinstance(one, torch.Tensor) for one in (*args[1:], kwargs.get("repeats")))
    if name not in {"__getitem__", "__setitem__"}:
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in index)


def _joined(events: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Make an expert loop of rows that one line picks again and again."""
    return Counter(
        {
            ("expert loop" if form == "rows by value" and count > 1 else form, line): count
            for (form, line), count in events.items()
        }
    )


def _operators(seen: Watched, model: nn.Module | None) -> Any:
    """Return a context that sees operators that draw numbers, and those that change what the model holds."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    own = {} if model is None else {
        one.untyped_storage().data_ptr(): name for name, one in [*model.named_buffers(), *model.named_parameters()]
    }  # fmt: skip

    class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags and not _idle(func, args):
                seen.events["chance", line_above()] += 1
            if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor):
                name = own.get(args[0].untyped_storage().data_ptr())
                if name is not None and args[0].numel():
                    seen.kept[line_above(), name] = None
            return func(*args, **(kwargs or {}))

    return Operators()  # type: ignore[no-untyped-call]


def _idle(func: Any, args: tuple[Any, ...]) -> bool:
    """Say whether an operator that could draw numbers draws none: attention and dropout with a chance of 0."""
    arguments = func._schema.arguments
    given = {one.name: one.default_value for one in arguments} | dict(
        zip((a.name for a in arguments), args, strict=False)
    )
    return given.get("dropout_p") == 0 or given.get("p") == 0 or given.get("train") is False


def _setting(seen: Watched) -> Any:
    """Return a context that sees modules set attributes of themselves."""
    from torch import nn

    original = nn.Module.__setattr__

    def setting(module: nn.Module, name: str, value: Any) -> None:
        if line := line_of_call():
            seen.kept[line, name] = None
        original(module, name, value)

    return mock.patch.object(nn.Module, "__setattr__", setting)


def _named(returned: object, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    import torch

    if isinstance(returned, torch.Tensor):
        yield name, returned
    elif isinstance(returned, Mapping):
        for key, one in returned.items():
            yield from _named(one, str(key))
    elif isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", [f"{name}_{index}" for index in range(len(returned))])
        for key, one in zip(names, returned, strict=True):
            yield from _named(one, key)


def _mention(model: nn.Module, label: str) -> str:
    """Return the first line of the user's code that names an attribute which a call changed."""
    import inspect

    path, _, name = label.partition("[")[0].rpartition(".")
    forward = type(model.get_submodule(path)).forward
    try:
        lines, start = inspect.getsourcelines(forward)
    except (OSError, TypeError):
        return ""
    named = (start + index for index, line in enumerate(lines) if f".{name}" in line)
    number = next(named, start)
    return line_at(inspect.getfile(forward), number) if is_user_file(inspect.getfile(forward)) else ""

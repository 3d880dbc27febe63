"""One clear error where a block is given shapes that do not go together: what was given, and what it was made for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

#: What PyTorch raises of shapes; what is made of them (no memory, an exporter's doubt) is passed on.
_OF_SHAPES = (RuntimeError, IndexError, NotImplementedError)

Made = TypeVar("Made", bound=type[nn.Module])


class ShapesError(ValueError):
    """A block was given shapes that do not go together."""


def tells_shapes(made: Made) -> Made:
    """Have a block's forward say in its own words what PyTorch says of some product within it.

    Nothing else changes, and nothing at all while the block is exported: only errors on plain tensors are told anew.

    Args:
        made: The class of the block.

    Returns:
        The same class. Its forward raises `ShapesError` where PyTorch refuses the shapes of what it is given; of
        blocks within blocks the outermost says it, since it is what was called.
    """
    forward = made.forward

    @functools.wraps(forward)
    def told(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        try:
            return forward(self, *args, **kwargs)
        except (*_OF_SHAPES, ShapesError) as raised:
            cause = raised.__cause__ if isinstance(raised, ShapesError) else raised
            if type(cause) not in _OF_SHAPES:
                raise
            given = _tensors(inspect.signature(forward).bind(self, *args, **kwargs).arguments)
            if not given or any(type(one) not in (Tensor, nn.Parameter) for one in given.values()):
                raise
            raise ShapesError(_message(type(self).__name__, given, forward.__doc__, cause)) from cause

    made.forward = told
    return made


def _tensors(given: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, Mapping):
            found |= _tensors(value)
        elif isinstance(value, tuple | list):
            found |= _tensors({str(place): one for place, one in enumerate(value)}, f"{name} ")
    return found


def _message(block: str, given: Mapping[str, Tensor], doc: str | None, cause: object) -> str:
    shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in given.items())
    made_for = _arguments(doc or "")
    wanted = f"; made for {made_for}" if made_for else ""
    return f"{block} cannot take these together: {shapes}{wanted} ({str(cause).splitlines()[0]})"


def _arguments(doc: str) -> str:
    """Return what a docstring says of the arguments: ``ids: INT64 [N, L]; mask: …``."""
    _, _, after = inspect.cleandoc(doc).partition("Args:\n")
    section, _, _ = after.partition("\n\n")
    lines = list[str]()
    for line in section.splitlines():
        if line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip().rstrip("."))
    return "; ".join(lines)

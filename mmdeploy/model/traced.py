"""How a component's module is traced by ``torch.export``: its tensors in order, its axes that vary, without noise."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.sizes import Size

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Not 1: torch.export takes a size of 1 as fixed.
TRACED_BATCH = 2
#: Attribute under which the module sits in the one that orders inputs and outputs.
WRAPPER = "component"
#: What is known of the axes that vary, by input and axis; axis 0 is the batch.
Axes = Mapping[str, Mapping[int, Size | None]]


def in_order(module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> nn.Module:
    """Return a module that takes inputs in order, passes them by name and returns a tuple of outputs in order."""
    from torch import nn

    class Component(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.component = module

        def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
            returned = self.component(**dict(zip(inputs, values, strict=True)))
            if isinstance(returned, Mapping):
                return tuple(returned[name] for name in outputs)
            return tuple(returned) if isinstance(returned, tuple | list) else (returned,)

    return Component().eval()


def open_axes(spec: TensorSpec | None) -> dict[int, Size | None]:
    """Return what is known of the axes of an input that vary; the batch is axis 0."""
    if spec is None:
        return {}
    known = spec.sizes or (None,) * len(spec.shape)
    return {axis: size for axis, (dim, size) in enumerate(zip(spec.shape, known, strict=True), start=1) if dim == -1}


def dynamic_shapes(axes: Axes, inputs: Sequence[str]) -> dict[str, Any]:
    """Return what torch.export is told of the axes of what `in_order` makes."""
    from torch.export import Dim

    batch = Dim("batch")
    hint: Callable[..., Any] = Dim.DYNAMIC

    def dim(size: Size | None) -> Any:
        return Dim.DYNAMIC if size is None or not size.bounded else hint(min=size.min, max=size.max)

    return {
        "values": tuple({0: batch, **{axis: dim(size) for axis, size in axes.get(name, {}).items()}} for name in inputs)
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's tools print, warn and log out of the user's sight; it goes to our debug log."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("torch", "onnxscript")]
    handlers = {handler for name in names for handler in logging.getLogger(name).handlers}
    levels = {handler: handler.level for handler in handlers}
    printed = io.StringIO()
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)
        if printed.getvalue().strip():
            logger.debug("torch said:\n%s", printed.getvalue())

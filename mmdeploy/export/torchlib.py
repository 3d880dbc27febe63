"""The exporter's registry of operators, read once in a process and in all that are forked from it.

``torch.onnx.export`` reads the source of torchlib's 500 functions anew at each call, which takes 1 s of processor time:
longer than all the rest of the export of a small head. What it reads does not change. The registry is private to
PyTorch: where a version keeps it elsewhere, nothing is kept, and exports are as slow as they were.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from mmdeploy.model.traced import quiet

logger = logging.getLogger(__name__)

#: Namespaces of operators that torchlib writes and a plain PyTorch may lack.
_OUTSIDE = {"quantized_decomposed", "torchvision"}


def read_once() -> None:
    """Have the exporter keep what it reads of torchlib, by opset; each export is given a copy that it may add to."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = ONNXRegistry.from_torchlib.__func__  # type: ignore[attr-defined]
    except (ImportError, AttributeError) as problem:
        logger.info("torchlib's registry is read at each export: %s", problem)
        return
    if isinstance(read, _Kept):
        return
    ONNXRegistry.from_torchlib = classmethod(_Kept(read))  # type: ignore[assignment]


def warm(opset: int) -> None:
    """Read it now, for an opset: what a process does before others are forked from it."""
    read_once()
    try:
        from torch.onnx._internal.exporter import _constants
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        with quiet():
            ONNXRegistry.from_torchlib(opset_version=max(opset, _constants.TORCHLIB_OPSET))
    except Exception as problem:  # noqa: BLE001 - private to PyTorch: an export says what does not work
        logger.info("torchlib's registry is not read before the first export: %s", problem)


class _Kept:
    """Stands for the function that reads the registry.

    Of operators that other libraries bring, it knows those that are there when it is read: so it is read again when
    more of them have come.
    """

    def __init__(self, read: Callable[..., Any]) -> None:
        self.read = read
        self._read: Any = functools.cache(lambda _, *given, **named: read(*given, **named))

    def __call__(self, registry: type[Any], *given: Any, **named: Any) -> Any:
        made = self._read(_brought(), registry, *given, **named)
        copied = registry()
        vars(copied).update(vars(made))
        copied.functions = {target: list(forms) for target, forms in made.functions.items()}
        return copied


def _brought() -> frozenset[str]:
    """Return which of the libraries whose operators torchlib writes, beside PyTorch's own, have brought them."""
    import torch

    known = {name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()}
    return frozenset(known & _OUTSIDE)

"""What init and doctor can look at: modules that hold values, and answers that are tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import DTYPE_BY_NUMPY
from mmdeploy.core.errors import ModelError, kind_of

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What wraps a model, by its kind: the attribute that holds the model itself.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def refuse_model(model: nn.Module, factory: str) -> None:
    """Refuse a model whose parts cannot be looked at.

    Raises:
        ModelError: When it is TorchScript, wrapped, or some of its tensors hold no values.
    """
    import torch
    from torch.nn.parameter import is_lazy

    kind = type(model).__name__
    if attribute := _WRAPPERS.get(kind):
        raise ModelError(
            f"the factory {factory} returned {kind_of(model)}, which wraps the model",
            hint=f"return the module itself, .{attribute}: that is what engines are made of",
        )
    for path, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"the part {path!r} of the model" if path else "the model"
            raise ModelError(
                f"{where} is TorchScript ({type(part).__name__}), whose forward can be neither watched nor exported",
                hint="return the nn.Module that it was made of, with its weights",
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            why = "it is lazy" if is_lazy(tensor) else "it is on the device meta"
            raise ModelError(
                f"the model's {name} holds no values: {why}",
                hint="load the trained weights in the factory, or give them: --weights",
            )


def refuse_answer(outputs: Mapping[str, Tensor]) -> None:
    """Refuse an answer of a type that no server gives.

    Raises:
        ModelError: Naming the output.
    """
    import torch

    for name, tensor in outputs.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided:
            raise ModelError(
                f"the model's output {name!r} is sparse, and no server gives such", hint="return .to_dense() of it"
            )
        if dtype not in DTYPE_BY_NUMPY:
            how = "torch.view_as_real of it" if tensor.is_complex() else ".float() of it"
            raise ModelError(f"the model's output {name!r} is {dtype}, and no server gives such", hint=f"return {how}")

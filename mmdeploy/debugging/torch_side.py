"""The PyTorch module as a reference: its outputs, and what each of its submodules returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.facts import read
from mmdeploy.model.torch_component import ComponentFacts, load_component
from mmdeploy.model.torch_model import call_module

if TYPE_CHECKING:
    from torch import nn


class TorchSide:
    """A component's module that tells what its submodules return."""

    def __init__(self, artifact: Artifact, component: str) -> None:
        """Load the module.

        Raises:
            ModelError: If it cannot be loaded.
        """
        self._module: nn.Module = load_component(artifact)
        self._component = component
        known = read(ComponentFacts, artifact)
        self._inputs, self._outputs = known.inputs, known.outputs

    def run(self, feed: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Answer a batch.

        Returns:
            The outputs by name, and what each submodule returned by its path: those that are called once and return one
            tensor.

        Raises:
            ModelError: If the module fails.
        """
        import numpy as np
        import torch

        returned: dict[str, list[Any]] = {}
        hooks = [
            part.register_forward_hook(_noting(returned.setdefault(path, [])))
            for path, part in self._module.named_modules()
            if path
        ]
        try:
            with torch.inference_mode():
                given = {name: torch.from_numpy(np.array(feed[name])) for name in self._inputs}
                outputs = call_module(self._module, given, self._outputs, name=self._component)
        finally:
            for hook in hooks:
                hook.remove()
        inner = {path: values[0] for path, values in returned.items() if len(values) == 1 and values[0] is not None}
        return {name: value.numpy() for name, value in outputs.items()}, inner


def _noting(values: list[Any]) -> Any:
    def hook(_: nn.Module, __: object, returned: object) -> None:
        import torch

        if not isinstance(returned, torch.Tensor):
            values.append(None)
            return
        values.append((returned.float() if returned.dtype == torch.bfloat16 else returned).numpy().copy())

    return hook

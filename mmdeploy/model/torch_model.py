"""The recipe's PyTorch model: build it, load its weights safely, take its parts, run them as they are wired.

Weights are read from ``.safetensors``, or from ``.pt``/``.pth`` with ``torch.load(weights_only=True)``. A
pickle that needs more than that can run any code when it is read, so it is refused unless the recipe says
``model.allow_pickle: true``.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ModelError, did_you_mean, kind_of
from mmdeploy.model.sharing import shared_names
from mmdeploy.model.sources import describe, importing_from, resolve_callable
from mmdeploy.model.watching import is_watching, note, reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    Array = npt.NDArray[np.generic]

_SHOWN = 5
_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class WiredModule:
    """A component as PyTorch runs it.

    Attributes:
        name: The component.
        module: Attribute path of its module in the model; empty for the whole model.
        inputs: Ensemble tensor by the component's input name.
        outputs: Ensemble tensor by the component's output name.
    """

    name: str
    module: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def load_model(factory: str, *, root: Path, weights: Path | None, allow_pickle: bool = False) -> nn.Module:
    """Build the model of a recipe and load its weights.

    Args:
        factory: ``path.py:callable`` relative to ``root``, or ``package.module:callable``; takes no arguments
            and gives an ``nn.Module``.
        root: Folder of the recipe.
        weights: A ``.safetensors``, ``.pt`` or ``.pth`` file with a state dict, relative to ``root`` or
            absolute; None leaves the model as the factory made it.
        allow_pickle: Whether a ``.pt`` file may hold arbitrary pickled objects, which runs code when read.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        ModelError: When any of it is missing, fails, or does not fit.
    """
    from torch import nn

    with reading(factory, lasts=True):
        build = resolve_callable(factory, root, error=ModelError)
        with importing_from(root):
            try:
                model = build()
            except Exception as cause:
                raise ModelError(f"the factory {factory} failed: {describe(cause, root)}") from cause
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the factory {factory} returned {type(model).__module__}.{type(model).__qualname__}, "
                "expected a torch.nn.Module",
                hint="return the module itself, such as `return Network()`",
            )
        if is_watching():
            note("shared", shared_names(model))
    if weights is not None:
        with importing_from(root):  # an allowed pickle may name the recipe's classes
            state = read_state_dict(root / weights, allow_pickle=allow_pickle)
        _load_state(model, state, weights)
    return model.eval()


def read_state_dict(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read a state dict from a weights file onto the CPU.

    Raises:
        ModelError: When the file is missing, of an unknown kind, damaged, unsafe, or no state dict.
    """
    import torch

    if path.suffix not in _SUFFIXES:
        raise ModelError(f"weights {path.name}: unknown file type", hint=did_you_mean(path.suffix, _SUFFIXES))
    if not path.is_file():
        beside = (other.name for other in path.parent.glob("*") if other.suffix in _SUFFIXES)
        raise ModelError(f"there is no weights file {path}", hint=did_you_mean(path.name, beside))
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, allow_pickle)
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"weights {path.name} hold {kind_of(state)}, expected a state dict (tensor by name)",
            hint="save with safetensors.torch.save_file(model.state_dict(), path)",
        )
    return dict(state)


def submodule(model: nn.Module, path: str) -> nn.Module:
    """Return the part of a model at an attribute path such as ``encoder.image``; an empty path is all of it.

    Raises:
        ModelError: When there is none, with the nearest names.
    """
    from torch import nn

    part: Any = model
    for depth, name in enumerate(path.split(".") if path else ()):
        children = dict(part.named_children())
        found = children.get(name, getattr(part, name, None))
        if not isinstance(found, nn.Module):
            owner = ".".join(path.split(".")[:depth]) or type(model).__name__
            what = f"is {kind_of(found)}, not a module" if found is not None else "does not exist"
            raise ModelError(f"submodule {path!r}: {owner}.{name} {what}", hint=did_you_mean(name, children))
        part = found
    return part  # type: ignore[no-any-return]


class TorchChain:
    """The components of a model run in PyTorch, wired as in the ensemble."""

    def __init__(
        self, model: nn.Module, components: Sequence[WiredModule], replaced: Mapping[str, nn.Module] | None = None
    ) -> None:
        """Take the parts of a model.

        Args:
            model: The whole model, in eval mode.
            components: Wiring, in an order in which each follows what feeds it.
            replaced: Modules that stand in for the model's own, by component.

        Raises:
            ModelError: When the model lacks one of the modules.
        """
        parts = dict(replaced or {})
        for component in components:
            parts.setdefault(component.name, submodule(model, component.module))
        self._parts = [(component, parts[component.name]) for component in components]

    def run(self, feeds: Mapping[str, Array], upto: str | None = None) -> dict[str, Array]:
        """Answer a batch.

        Args:
            feeds: Arrays by ensemble tensor, batch on axis 0.
            upto: Stop before this component; None runs them all.

        Returns:
            What the components wrote, by ensemble tensor, batch on axis 0.

        Raises:
            ModelError: When a module fails or its outputs are not as declared.
        """
        import torch

        tensors = {name: torch.from_numpy(_writable(array)) for name, array in feeds.items()}
        written: dict[str, Array] = {}
        for component, module in self._parts:
            if component.name == upto:
                break
            given = {name: tensors[tensor] for name, tensor in component.inputs.items()}
            with torch.inference_mode():
                answers = call_module(module, given, tuple(component.outputs), name=component.name)
            for name, tensor in component.outputs.items():
                tensors[tensor] = answers[name]
                written[tensor] = answers[name].numpy()
        return written


def call_module(
    module: nn.Module, given: Mapping[str, Tensor], outputs: Sequence[str], *, name: str
) -> dict[str, Tensor]:
    """Call a component's module with keyword arguments and name what it returns.

    Raises:
        ModelError: When it fails, or returns something else than the declared outputs.
    """
    try:
        returned = module(**given)
    except Exception as cause:
        raise ModelError(
            f"component {name}: the module failed on inputs "
            f"{', '.join(f'{key} {list(value.shape)}' for key, value in given.items())}: {describe(cause)}",
            hint="inputs are passed as keyword arguments: their names are those of forward's parameters",
        ) from cause
    return name_outputs(returned, outputs, name=name)


def name_outputs(returned: object, outputs: Sequence[str], *, name: str) -> dict[str, Tensor]:
    """Match what a module returned (a tensor, a tuple, a list or a mapping) to the declared output names.

    Raises:
        ModelError: When counts or names differ, or a value is no tensor.
    """
    import torch

    if isinstance(returned, Mapping):
        missing = [output for output in outputs if output not in returned]
        if missing:
            raise ModelError(
                f"component {name}: the module returns no {missing[0]!r}",
                hint=did_you_mean(missing[0], map(str, returned)),
            )
        named = {output: returned[output] for output in outputs}
    else:
        values = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
        if len(values) != len(outputs):
            raise ModelError(
                f"component {name}: the module returns {_count(len(values), 'value')}, "
                f"the recipe declares {_count(len(outputs), 'output')} ({', '.join(outputs)})"
            )
        named = dict(zip(outputs, values, strict=True))
    for output, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"component {name}: output {output!r} is {kind_of(value)}, expected a tensor")
    return named


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads while the context is open."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as cause:
        raise ModelError(
            f"weights {path.name} cannot be read as safetensors: {' '.join(str(cause).split())}",
            hint="the file is damaged or of another kind; a Git LFS pointer looks like this too",
        ) from cause


def _read_torch(path: Path, allow_pickle: bool) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as cause:
        if allow_pickle or not _is_torch_file(path):
            raise _unreadable(path, cause) from cause
        raise ModelError(
            f"weights {path.name} hold more than tensors: reading them would run pickled code, refused",
            hint="save the state dict as safetensors, or, if you trust the file, write "
            "`allow_pickle: true` under `model:` in the recipe",
        ) from cause
    except Exception as cause:
        raise _unreadable(path, cause) from cause


def _is_torch_file(path: Path) -> bool:
    """Say whether a file is what torch.save writes: a zip archive, or a pickle before torch 1.6."""
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _unreadable(path: Path, cause: Exception) -> ModelError:
    first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return ModelError(
        f"weights {path.name} cannot be read by torch.load: {first}",
        hint="the file is damaged or of another kind; a Git LFS pointer looks like this too",
    )


def _load_state(model: nn.Module, state: Mapping[str, Tensor], weights: Path) -> None:
    wanted = model.state_dict()
    given = {wanted[name].data_ptr() for name in state if name in wanted}  # tied weights may be stored once
    problems = [
        _listing(
            "missing",
            [name for name in wanted if name not in state and wanted[name].data_ptr() not in given],
        ),
        _listing("unexpected", [name for name in state if name not in wanted]),
        _listing(
            "of another shape",
            [
                f"{name} is {list(state[name].shape)}, the model has {list(wanted[name].shape)}"
                for name in wanted
                if name in state and state[name].shape != wanted[name].shape
            ],
        ),
    ]
    if any(problems):
        raise ModelError(
            f"weights {weights.name} do not fit {type(model).__name__}:\n  "
            + "\n  ".join(problem for problem in problems if problem),
            hint="the factory must build exactly the network that the weights were trained in",
        )
    try:
        model.load_state_dict(dict(state), strict=False)
    except RuntimeError as cause:
        raise ModelError(f"weights {weights.name} do not fit {type(model).__name__}: {cause}") from cause


def _listing(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{rest}"


def _writable(array: Array) -> Array:
    import numpy as np

    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

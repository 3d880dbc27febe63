"""The recipe's PyTorch model: build it, load its weights, take its parts, run them as they are wired."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ModelError, did_you_mean, kind_of
from mmdeploy.model import held_model
from mmdeploy.model.adapter_files import Adapters
from mmdeploy.model.failing import failure
from mmdeploy.model.mistakes import is_of_user, names_hint, refuse_arguments, remedy
from mmdeploy.model.sharing import shared_names
from mmdeploy.model.sources import describe, importing_from, resolve_callable
from mmdeploy.model.state_dicts import listing, read_state_dict
from mmdeploy.model.watching import is_watching, note, reading
from mmdeploy.model.weight_files import Prefix, is_covered, placed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    Array = npt.NDArray[np.generic]

logger = logging.getLogger(__name__)

_SHOWN = 5

#: How the message begins, behind the component, where a module cannot take what it is given.
FAILED = "the module failed on inputs"


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


def load_model(
    factory: str,
    *,
    root: Path,
    weights: Path | None,
    prefix: Prefix = MappingProxyType({}),
    adapters: Adapters = MappingProxyType({}),
    allow_pickle: bool = False,
    parts: Sequence[str] | None = None,
) -> nn.Module:
    """Build the model of a recipe and load its weights; where this process was forked with it, take that.

    Args:
        factory: ``path.py:callable`` relative to ``root``, or ``package.module:callable``; takes no arguments
            and gives an ``nn.Module``.
        root: Folder of the recipe.
        weights: A checkpoint (see `mmdeploy.model.weight_files`), relative to ``root`` or absolute; None leaves the
            model as the factory made it.
        prefix: Where in the model the checkpoint's tensors belong: attribute path there by attribute path in the file;
            None leaves them out.
        adapters: LoRA adapters that are merged into the model, in their order: folder, relative to ``root`` or
            absolute, by the attribute path of the module that it was trained on (see `mmdeploy.model.adapters`).
        allow_pickle: Whether a ``.pt`` file may hold arbitrary pickled objects, which runs code when read.
        parts: Attribute paths of what of it will be called or changed; None stands for all of it.

    Returns:
        The model in eval mode, on the CPU. What a checkpoint holds in BF16 or FP16 is computed in FP32: precision is
        chosen when it is compiled.

    Raises:
        EnvironmentUnfitError: When there are adapters, and PEFT is not installed.
        ModelError: When any of it is missing, fails, or does not fit.
    """
    known = held_model.held()
    if known is not None and known.loaded_by == identity(
        factory, root, weights, prefix, adapters, allow_pickle=allow_pickle
    ):
        used = [known.model] if parts is None else [submodule(known.model, path) for path in parts]
        if known.give(used):
            with reading(factory, lasts=True):
                return known.model
    model = _built(factory, root)
    if weights is not None:
        with importing_from(root):  # an allowed pickle may name the recipe's classes
            state = read_state_dict(root / weights, allow_pickle=allow_pickle)
        _load_state(model, placed(state, prefix), weights, prefix)
    model = _in_full_precision(model)
    if adapters:
        from mmdeploy.model.adapters import merge

        for path, folder in adapters.items():
            merge(model, submodule(model, path), root / folder, allow_pickle=allow_pickle)
    return model.eval()


def identity(
    factory: str, root: Path, weights: Path | None, prefix: Prefix, adapters: Adapters, *, allow_pickle: bool
) -> Hashable:
    """Return what tells the model of one recipe from that of another, in one process."""
    return factory, root.resolve(), weights, tuple(sorted(prefix.items())), tuple(adapters.items()), allow_pickle


def _built(factory: str, root: Path) -> nn.Module:
    from torch import nn

    with reading(factory, lasts=True):
        build = resolve_callable(factory, root, error=ModelError)
        refuse_arguments(build, f"the factory {factory}", {}, ModelError)
        with importing_from(root):
            try:
                model = build()
            except (Exception, SystemExit) as cause:
                if not is_of_user(cause):
                    raise
                told = f"the factory {factory} failed: {describe(cause, root)}"
                raise ModelError(told, hint=remedy(cause, root)) from cause
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the factory {factory} returned {kind_of(model)}, expected a torch.nn.Module",
                hint="return the module itself, such as `return Network()`",
            )
        if is_watching():
            note("shared", shared_names(model))
    return model


def _in_full_precision(model: nn.Module) -> nn.Module:
    """Turn parameters and buffers of BF16 and FP16 into FP32, in place; tied ones stay tied."""
    import torch

    half = (torch.bfloat16, torch.float16)
    tensors = (*model.parameters(), *model.buffers())
    if not any(tensor.dtype in half for tensor in tensors):
        return model
    logger.info("%s has tensors in BF16 or FP16: they are computed in FP32", type(model).__name__)
    for tensor in tensors:
        if tensor.dtype in half:
            tensor.data = tensor.data.float()
    return model


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
        self.model = model

    def run(
        self, feeds: Mapping[str, Array], upto: str | None = None, *, without: Collection[str] = ()
    ) -> dict[str, Array]:
        """Answer a batch.

        Args:
            feeds: Arrays by ensemble tensor, batch on axis 0.
            upto: Stop before this component; None runs them all.
            without: Components that are not run: what the others read of them is among the feeds.

        Returns:
            What the components wrote, by ensemble tensor, batch on axis 0.

        Raises:
            ModelError: When a module fails, its outputs are not as declared, or one has no row a sample.
        """
        import torch

        batch = len(next(iter(feeds.values())))
        tensors = {name: torch.from_numpy(_writable(array)) for name, array in feeds.items()}
        written: dict[str, Array] = {}
        for component, module in self._parts:
            if component.name == upto:
                break
            if component.name in without:
                continue
            given = {name: tensors[tensor] for name, tensor in component.inputs.items()}
            with torch.inference_mode():
                answers = call_module(module, given, tuple(component.outputs), name=component.name)
            for name, tensor in component.outputs.items():
                if answers[name].shape[:1] != (batch,):
                    raise ModelError(
                        f"component {component.name}: output {name!r} is {list(answers[name].shape)} for a batch of "
                        f"{batch}: it has no batch axis, every output of a served component has one row a sample",
                        hint="return only what each sample has of its own: a mean over the batch is for training",
                    )
                tensors[tensor] = answers[name]
                written[tensor] = as_numpy(answers[name], component.name, name)
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
        found = failure(module, lambda: module(**given), given)
        where = f": {found.text}" if found else ""
        raise ModelError(
            f"component {name}: {FAILED} "
            f"{', '.join(f'{key} {list(value.shape)}' for key, value in given.items())}{where}: {describe(cause)}",
            hint="look at what the component's inputs are wired to" if found else names_hint(module.forward, given),
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


def as_numpy(answer: Tensor, component: str, output: str) -> Array:
    """Return an output as an array.

    Raises:
        ModelError: When it is of a type that neither NumPy nor Triton's clients have.
    """
    try:
        array: Array = answer.detach().numpy()
        return array
    except TypeError as cause:
        kind = str(answer.dtype).removeprefix("torch.")
        raise ModelError(
            f"component {component}: output {output!r} is {kind}, which no client of Triton can read",
            hint=f"return {output}.float() in forward",
        ) from cause


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


def _load_state(model: nn.Module, state: Mapping[str, Tensor], weights: Path, prefix: Prefix) -> None:
    wanted = {name: value for name, value in model.state_dict().items() if name in state or is_covered(name, prefix)}
    given = {wanted[name].data_ptr() for name in state if name in wanted}  # tied weights may be stored once
    problems = [
        listing(
            "missing",
            [name for name in wanted if name not in state and wanted[name].data_ptr() not in given],
        ),
        listing("unexpected", [name for name in state if name not in wanted]),
        listing(
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
            hint=_prefix_hint(wanted, state)
            or _rest_hint(wanted, state, prefix)
            or "the factory must build exactly the network that the weights were trained in",
        )
    try:
        model.load_state_dict(dict(state), strict=False)
    except RuntimeError as cause:
        raise ModelError(f"weights {weights.name} do not fit {type(model).__name__}: {cause}") from cause


def _prefix_hint(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """Find where in the model the whole checkpoint would fit, what its names begin with, or what it holds besides."""
    for name in state:
        inside = [own.removesuffix(f".{name}") for own in wanted if own.endswith(f".{name}")]
        if inside and all(f"{inside[0]}.{other}" in wanted for other in state):
            return f'say where it belongs: model.prefix: {{"": {inside[0]}}}'
        first = name.partition(".")[0]
        if name not in wanted and all(other.removeprefix(f"{first}.") in wanted for other in state):
            return f'take off what all names begin with: model.prefix: {{{first}: ""}}'
        break
    parts = sorted({name.partition(".")[0] for name in state if name not in wanted})
    if parts and all(name in state for name in wanted) and not {name.partition(".")[0] for name in wanted} & {*parts}:
        left_out = ", ".join(f"{part}: null" for part in parts[:_SHOWN])
        return f"leave out what the model has no place for: model.prefix: {{{left_out}}}"
    return None


def _rest_hint(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: Prefix) -> str | None:
    """Say how what no part of the checkpoint is meant for stays the factory's, where that is all that is missing."""
    alone = {"": None, **prefix}
    lacks = [name for name in wanted if name not in state]
    if not prefix or not lacks or any(name not in wanted for name in state) or any(is_covered(n, alone) for n in lacks):
        return None
    parts = ", ".join(f"{path}: {'null' if into is None else into}" for path, into in prefix.items())
    return f'say that the rest of the model is the factory\'s: model.prefix: {{"": null, {parts}}}'


def _writable(array: Array) -> Array:
    import numpy as np

    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

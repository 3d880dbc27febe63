"""A component's PyTorch module as an artifact, so that passes on it can follow one another.

An artifact of format ``torch`` is the recipe's factory and weights, and what passes changed since: a state dict
as safetensors, and the integer attributes, and tuples of integers, that differ from the factory's module
(``out_features``, ``num_heads``, ``normalized_shape``).
Loading it builds the original, or the student that took its place, resizes it and loads the state: code is only ever
the recipe's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import ModelError
from mmdeploy.model.adapter_files import Adapters
from mmdeploy.model.sharing import common_part
from mmdeploy.model.torch_model import load_model, submodule

if TYPE_CHECKING:
    from torch import Tensor, nn

Size: TypeAlias = int | tuple[int, ...]

FORMAT = "torch"
FILENAME = "module.safetensors"


@dataclass(frozen=True)
class ComponentFacts:
    """What an artifact of format ``torch`` says of its module; every pass on it hands this on.

    Attributes:
        factory: The recipe's ``path:callable``.
        root: The recipe's folder.
        weights: The recipe's weights, relative to ``root``; None where the factory loads them.
        module: Attribute path of the component in the model.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        allow_pickle: Whether the weights may be a pickle.
        prefix: Where in the model the tensors of the weights belong.
        adapters: LoRA adapters that are merged into the model, by the attribute path of the module they belong to.
        resized: Integer attributes that passes changed, by submodule path; None for the factory's own module.
        sparse_parameters: Names of the parameters whose zeros later training must keep.
        apart: Other components and their modules' paths, which compression would make differ from this one: see
            `mmdeploy.model.sharing.common_part`.
        retrained: Those of ``apart`` where pruning or training changes weights, on either side.
        student: ``path:callable`` that builds the module in its place; None where it is the model's own.
    """

    factory: str
    root: Path
    weights: Path | None
    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allow_pickle: bool = False
    prefix: Mapping[str, str | None] = field(default_factory=dict)
    adapters: Adapters = field(default_factory=dict)
    resized: Mapping[str, Mapping[str, Size]] | None = None
    sparse_parameters: tuple[str, ...] = ()
    apart: tuple[tuple[str, str], ...] = ()
    retrained: tuple[str, ...] = ()
    student: str | None = None


def component_facts(artifact: Artifact) -> ComponentFacts:
    """Return what an artifact of format ``torch`` says of its module."""
    return facts.read(ComponentFacts, artifact)


def in_folder(artifact: Artifact, root: Path) -> Artifact:
    """Return an artifact with the recipe's folder where it is now.

    A store may be one for several folders that hold the same, of which this one is asked for: another may be gone, or
    hold something else by now.

    Args:
        artifact: Of any format; one that is not ``torch`` is given back as it is.
        root: The recipe's folder.
    """
    if artifact.format != FORMAT:
        return artifact
    return replace(
        artifact, metadata=dict(artifact.metadata) | facts.as_metadata(replace(component_facts(artifact), root=root))
    )


def load_component(artifact: Artifact) -> nn.Module:
    """Build the module of a component as an artifact of format ``torch`` describes it.

    Returns:
        The module in eval mode, on the CPU.

    Raises:
        ModelError: When the recipe's model cannot be built, or does not fit what passes made of it.
    """
    resized = component_facts(artifact).resized
    module = _unchanged_component(artifact)
    if resized is None:
        return module
    from safetensors.torch import load_file

    _resize(module, resized, load_file(artifact.path))
    return module.eval()


def _unchanged_component(artifact: Artifact) -> nn.Module:
    """Build what the attributes that passes changed are told from: the original, or the student in its place."""
    of = component_facts(artifact)
    if of.student is None:
        return original_component(artifact)
    return load_model(of.student, root=of.root, weights=None)


def original_component(artifact: Artifact) -> nn.Module:
    """Build the module of a component as the recipe's factory and weights give it, whatever passes did since.

    Raises:
        ModelError: Also when it shares with another component what compression would make differ.
    """
    of = component_facts(artifact)
    model = load_model(
        of.factory, root=of.root, weights=of.weights, prefix=of.prefix, adapters=of.adapters,
        allow_pickle=of.allow_pickle, parts=[of.module],
    )  # fmt: skip
    module = submodule(model, of.module)
    for name, path in of.apart:
        try:
            other = submodule(model, path)
        except ModelError:  # told of the component that names it
            continue
        part = common_part(module, other, weights_too=name in of.retrained)
        if part is not None:
            raise ModelError(
                f"the module {of.module!r} has {part} in common with {path!r}, the module of component {name}:"
                " compressed apart, they would no longer be the same",
                hint="name one path for both components, with the same sections; or, if they may differ, give each its"
                " own in the factory (copy.deepcopy)",
            )
    return module


def save_component(
    module: nn.Module,
    *,
    before: Artifact,
    folder: Path,
    produced_by: str,
    zeroed: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    student: str | None = None,
) -> Artifact:
    """Write a module that a pass changed, or put in the place of another.

    Args:
        module: The component's module; of the same classes as the factory's (or the student's), whose tensors and
            integer attributes may have changed.
        before: The artifact that the pass took.
        folder: Where to write; the step's ``workdir``.
        produced_by: Name of the pass.
        zeroed: Names of parameters whose zeros later training must keep, besides those of ``before``.
        metadata: Facts to add to, or to replace in, those of ``before``.
        student: ``path:callable`` that built the module, where it takes the place of that of ``before``.

    Raises:
        ModelError: If submodules were added or removed: that cannot be told from the factory's code again; or if
            ``metadata`` would replace what the module is loaded by.
    """
    from safetensors.torch import save_file

    if taken := sorted({one.name for one in fields(ComponentFacts)} & set(metadata or {})):
        raise ModelError(f"metadata {taken[0]!r} of {produced_by} would hide what the module is loaded by: rename it")
    known = component_facts(before)
    if student is not None:
        known = replace(known, student=student, sparse_parameters=())
        before = replace(before, metadata={**before.metadata, **facts.as_metadata(known)})
    resized = _changed_attributes(_unchanged_component(before), module)
    path = folder / FILENAME
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in _state(module).items()}, path)
    kept = tuple(sorted({*known.sparse_parameters, *zeroed}))
    now = facts.as_metadata(replace(known, resized=resized, sparse_parameters=kept))
    return replace(
        before,
        path=path,
        sha256=file_sha256(path),
        produced_by=produced_by,
        metadata={**before.metadata, **(metadata or {}), **now},
        beside=(),  # the recipe's weights may have been several files
    )


def _changed_attributes(original: nn.Module, module: nn.Module) -> dict[str, dict[str, Size]]:
    before, after = dict(original.named_modules()), dict(module.named_modules())
    odd = sorted(set(before).symmetric_difference(after))
    if odd:
        raise ModelError(f"a pass added or removed the submodule {odd[0]!r}; only sizes and values may change")
    changed = {}
    for name, part in after.items():
        old = vars(before[name])
        differing = {key: value for key, value in vars(part).items() if _is_size(value) and old.get(key) != value}
        if differing:
            changed[name] = differing
    return changed


def _is_size(value: object) -> bool:
    """Say whether an attribute may be a size: an integer, or a tuple of them such as ``normalized_shape``."""
    return type(value) is int or (type(value) is tuple and all(type(part) is int for part in value))


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and all buffers, the non-persistent ones included: a pass may have resized those too."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _resize(module: nn.Module, attributes: Mapping[str, Mapping[str, Size]], state: Mapping[str, Tensor]) -> None:
    from torch import nn

    parts = dict(module.named_modules())
    for name, values in attributes.items():
        for key, value in values.items():
            setattr(parts[name], key, value)
    known = _state(module)
    if missing := sorted(set(known).symmetric_difference(state)):
        raise ModelError(
            f"the compressed module and the recipe's factory differ in {missing[0]!r}",
            hint="the model's code changed after the component was compressed; build again",
        )
    tied: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    for name, parameter in list(module.named_parameters()):
        replacement = nn.Parameter(state[name], requires_grad=parameter.requires_grad)
        for alias in tied[id(parameter)]:
            owner, _, leaf = alias.rpartition(".")
            parts[owner]._parameters[leaf] = replacement
    for name, _ in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        parts[owner]._buffers[leaf] = state[name]

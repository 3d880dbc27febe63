"""The weights that masks apply to: those of linear layers and convolutions, chosen by globs on module paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core import globs
from mmdeploy.core.errors import PruneError

if TYPE_CHECKING:
    from torch import nn

#: nn.MultiheadAttention multiplies by these itself; its ``out_proj`` is a linear layer of its own.
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Weight:
    """A weight that a layer multiplies by.

    Attributes:
        layer: Path of its module.
        name: Name of the parameter in the component.
        owner: The module.
        tensor: The parameter: [out, in] of a linear layer, [out, in / groups, ...] of a convolution,
            [in, out / groups, ...] of a transposed one.
    """

    layer: str
    name: str
    owner: nn.Module
    tensor: nn.Parameter


@dataclass(frozen=True)
class Chosen:
    """Weights to prune, and why others stay as they are, by name of the parameter."""

    weights: tuple[Weight, ...]
    left_out: Mapping[str, str]


def choose(module: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> Chosen:
    """Choose weights by globs, each of which may match a layer or anything that the layer is in.

    Raises:
        PruneError: When a glob matches no module, or no weight is left.
    """
    check_globs(module, include=include, exclude=exclude)
    chosen: list[Weight] = []
    left_out: dict[str, str] = {}
    foreign = _foreign(module)
    for weight in _weights(module):
        if matching(weight.layer, include) is None:
            left_out[weight.name] = "not included"
        elif (pattern := matching(weight.layer, exclude)) is not None:
            left_out[weight.name] = f"excluded by {pattern!r}"
        elif id(weight.tensor) in foreign:
            left_out[weight.name] = f"shared with {foreign[id(weight.tensor)]}, which is not pruned"
        else:
            chosen.append(weight)
    if not chosen:
        reasons = "; ".join(sorted(set(left_out.values()))) or "it has no linear layers and no convolutions"
        raise PruneError(f"nothing to prune: {reasons}", hint="see `include` and `exclude`, or drop `prune`")
    return Chosen(tuple(chosen), left_out)


def check_globs(module: nn.Module, **patterns: Sequence[str]) -> None:
    """Refuse a glob that matches no module; keywords name the options.

    Raises:
        PruneError: With the nearest paths.
    """
    paths = [path for path, _ in module.named_modules() if path] or [""]
    for option, globbed in patterns.items():
        pattern = globs.unmatched(globbed, paths)
        if pattern is not None:
            raise PruneError(
                f"{option}: {pattern!r} matches no module", hint=globs.nearest_names(pattern, paths, noun="modules")
            )


def matching(path: str, patterns: Sequence[str]) -> str | None:
    """Return the glob that matches a module or one that it is in; None when there is none."""
    parts = path.split(".")
    enclosing = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return next((found for name in enclosing if (found := globs.first_match(name, patterns)) is not None), None)


def _weights(module: nn.Module) -> Iterator[Weight]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    seen: set[int] = set()
    for path, part in module.named_modules():
        for attribute in _multiplied(part):
            tensor = getattr(part, attribute)
            if tensor is not None and id(tensor) not in seen and id(tensor) in names:
                seen.add(id(tensor))
                yield Weight(path, names[id(tensor)], part, tensor)


def _multiplied(part: nn.Module) -> tuple[str, ...]:
    """Name the parameters of one module that inputs are multiplied by."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if isinstance(part, nn.Linear | _ConvNd):
        return ("weight",)
    return _ATTENTION_WEIGHTS if isinstance(part, nn.MultiheadAttention) else ()


def _foreign(module: nn.Module) -> dict[int, str]:
    """Return what else uses a parameter, such as the embedding that an output layer is tied to, by its id."""
    return {
        id(parameter): f"{path}.{attribute}"
        for path, part in module.named_modules()
        for attribute, parameter in part._parameters.items()
        if parameter is not None and attribute not in _multiplied(part)
    }

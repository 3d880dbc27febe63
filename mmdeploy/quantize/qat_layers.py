"""Which layers of a module are fake-quantized, and the module made ready for it.

A copy of the component is rewritten before quantizers are attached, without changing its answers: attention is
separated into linear layers (`qat_attention`), weights that are computed from others become plain ones (`qat_weights`),
and a batch normalization behind a convolution or a linear layer is
folded into it, because the exporter folds it too and scales found before would belong to other weights (the same is
done before quantization-aware training in Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", 2018, section 3.2.2). `write_back` undoes all of it in an untouched module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmdeploy.quantize import qat_attention, qat_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Largest difference that rewriting may make to an answer, relative to the largest value in it.
_SAME = 1e-4


@dataclass(frozen=True)
class Layer:
    """A layer that can be fake-quantized.

    Attributes:
        name: Path of the layer in the rewritten module.
        node_paths: Module paths that the exporter may name the layer's node after.
        operators: ONNX operators that the exporter may write for it.
        parameter: Name of its weight in the component's own module.
        rows: The rows of that parameter that are this layer's; None for all.
    """

    name: str
    node_paths: tuple[str, ...]
    operators: tuple[str, ...]
    parameter: str
    rows: tuple[int, int] | None = None

    def node_names(self) -> Iterator[str]:
        """Yield the names that the layer's node may have in the graph."""
        for path in self.node_paths:
            for operator in self.operators:
                yield f"{path}/{operator}" if path else operator


@dataclass
class Prepared:
    """A rewritten copy of a component.

    Attributes:
        module: The copy.
        layers: Its layers, in the order in which they are called.
        shared: Groups of layers (indices) that read one tensor.
        attentions: Paths of the attentions that were separated.
        computed: Paths of the layers whose weights were computed and are plain now.
        folded: Path of the layer that a batch normalization was folded into, by the path of the latter.
        notes: What could not be rewritten and why, by module path.
    """

    module: nn.Module
    layers: tuple[Layer, ...] = ()
    shared: tuple[tuple[int, ...], ...] = ()
    attentions: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    folded: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def prepare(load: Callable[[], nn.Module], forward: Callable[[nn.Module], Mapping[str, Tensor]]) -> Prepared:
    """Rewrite a component for fake quantization.

    Args:
        load: Makes a fresh copy of the component's module.
        forward: Answers one batch with such a module.
    """
    original = load()
    expected = forward(original)
    prepared = _plain(load())
    _separate_attentions(prepared)
    if prepared.attentions and (why := _difference(prepared.module, forward, expected)):
        logger.warning("attention is left as it is, because separated it %s", why)
        notes = dict.fromkeys(prepared.attentions, f"separated into linear layers it {why}")
        prepared = _plain(load(), notes)
    pairs = _batchnorm_pairs(prepared.module, forward)
    if pairs:
        _fold_all(prepared, pairs)
        if why := _difference(prepared.module, forward, expected):
            logger.warning("batch normalizations are left as they are, because folded the module %s", why)
            notes = prepared.notes | dict.fromkeys(pairs, f"folded, the module {why}")
            prepared = _plain(load(), notes)
            _separate_attentions(prepared)
    seen = _observe(prepared.module, forward)
    layers = tuple(_layer(prepared, name, seen) for name in seen)
    return replace(prepared, layers=layers, shared=_shared(seen))


def _plain(module: nn.Module, notes: Mapping[str, str] | None = None) -> Prepared:
    """Start with a copy of the component whose computed weights are plain parameters, as far as they can be."""
    prepared = Prepared(module, notes=dict(notes or {}))
    for path, part in module.named_modules():
        if not _is_known(part) or not qat_weights.is_computed(part):
            continue
        if why := qat_weights.obstacle(part):
            prepared.notes[path] = why
        else:
            qat_weights.make_plain(part)
            prepared.computed += (path,)
    return prepared


def write_back(prepared: Prepared, plain: nn.Module) -> nn.Module:
    """Copy what was trained into an untouched module of the component, and return that."""
    import torch

    modules = dict(prepared.module.named_modules())
    layers = set(prepared.computed).difference(prepared.folded.values())
    rewritten = {*prepared.attentions, *layers, *prepared.folded, *prepared.folded.values()}
    prefixes = tuple(f"{path}." if path else "" for path in rewritten)
    known = dict(prepared.module.named_parameters(remove_duplicate=False)) | dict(prepared.module.named_buffers())
    with torch.no_grad():
        for name, tensor in (*plain.named_parameters(), *plain.named_buffers()):
            if not name.startswith(prefixes):
                tensor.copy_(known[name])
    own: dict[str, Any] = dict(plain.named_modules())
    for path in prepared.attentions:
        qat_attention.pack(modules[path], own[path])
    for path in layers:
        _copy(modules[path], own[path])
    for norm, layer in prepared.folded.items():
        _unfold(modules[layer], own[layer], own[norm])
    return plain


def _copy(trained: Any, layer: Any) -> None:
    import torch

    qat_weights.put(layer, trained.weight)
    if layer.bias is not None:
        with torch.no_grad():
            layer.bias.copy_(trained.bias)


def parameters_of(prepared: Prepared, name: str) -> tuple[str, ...]:
    """Return the names in the rewritten module of a parameter of the component."""
    for path in prepared.computed:
        prefix = f"{path}." if path else ""
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith("bias"):
            return (f"{prefix}weight",)
    for path in prepared.attentions:
        prefix = f"{path}." if path else ""
        one, _, kind = name.removeprefix(prefix).rpartition("_")
        if not name.startswith(prefix) or one not in ("in_proj", *qat_attention.PROJECTIONS):
            continue
        parts = qat_attention.PROJECTIONS if one == "in_proj" else (one,)
        return tuple(f"{prefix}{part}.{kind}" for part in parts)
    return (name,)


def _separate_attentions(prepared: Prepared) -> None:
    from torch import nn

    for path, part in list(prepared.module.named_modules()):
        if not isinstance(part, nn.MultiheadAttention):
            continue
        if why := qat_attention.unsupported(part):
            prepared.notes[path] = why
        elif path:
            _replace(prepared.module, path, qat_attention.separate(part))
            prepared.attentions += (path,)
        else:
            prepared.module = qat_attention.separate(part)
            prepared.attentions += (path,)


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    module.get_submodule(owner)._modules[leaf] = part


def _difference(
    module: nn.Module, forward: Callable[[nn.Module], Mapping[str, Tensor]], expected: Mapping[str, Tensor]
) -> str | None:
    """Say how a rewritten module differs from the original; None when it does not."""
    try:
        answers = forward(module)
    except Exception as cause:  # noqa: BLE001 - the model's own code, which may use what was replaced in any way
        return f"fails: {type(cause).__name__}: {cause}"
    for name, wanted in expected.items():
        limit = _SAME * max(float(wanted.abs().max()), 1e-6)
        if float((answers[name] - wanted).abs().max()) > limit:
            return f"answers differently in {name!r}"
    return None


def _batchnorm_pairs(module: nn.Module, forward: Callable[[nn.Module], Mapping[str, Tensor]]) -> dict[str, str]:
    """Find the batch normalizations that read directly what a convolution or a linear layer wrote, with its path."""
    from torch.nn.modules.batchnorm import _BatchNorm

    written: dict[int, tuple[str, Any]] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def watch(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(part, _BatchNorm):
                if given and id(given[0]) in written:
                    pairs[name] = written[id(given[0])][0]
            else:
                written[id(answer)] = name, answer  # held, so that its id stays its own

        return part.register_forward_hook(hook)

    parts: dict[str, Any] = {
        name: part for name, part in module.named_modules()
        if _is_weighted(part) or (isinstance(part, _BatchNorm) and part.track_running_stats)
    }  # fmt: skip
    _with_hooks([watch(name, part) for name, part in parts.items()], module, forward)
    readers = list(pairs.values())
    return {
        norm: layer
        for norm, layer in pairs.items()
        if calls[norm] == calls[layer] == readers.count(layer) == 1
        and (parts[norm].affine or parts[layer].bias is not None)
    }


def _is_known(part: nn.Module) -> bool:
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(part, kind) and type(part).forward is kind.forward for kind in kinds)


def _is_weighted(part: nn.Module) -> bool:
    from torch.nn.utils import parametrize

    return _is_known(part) and not qat_weights.is_computed(part) and not parametrize.is_parametrized(part)


def _fold_all(prepared: Prepared, pairs: Mapping[str, str]) -> None:
    import torch
    from torch import nn

    for norm, layer in pairs.items():
        into: Any = prepared.module.get_submodule(layer)
        normal: Any = prepared.module.get_submodule(norm)
        with torch.no_grad():
            gain = torch.rsqrt(normal.running_var + normal.eps)
            gain = gain if normal.weight is None else gain * normal.weight
            shift = -normal.running_mean * gain
            shift = shift if normal.bias is None else shift + normal.bias
            into.weight.mul_(gain.reshape(-1, *[1] * (into.weight.dim() - 1)))
            into.bias = nn.Parameter(shift if into.bias is None else shift + into.bias * gain)
        _replace(prepared.module, norm, nn.Identity())
        prepared.folded[norm] = layer


def _unfold(trained: Any, layer: Any, norm: Any) -> None:
    """Give an untouched layer the folded weights, and let its batch normalization pass them on unchanged."""
    import torch

    with torch.no_grad():
        qat_weights.put(layer, trained.weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
        if norm.affine:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        (norm if layer.bias is None else layer).bias.copy_(trained.bias)


@dataclass
class _Seen:
    """What a forward pass shows of a layer: rank of its input, and which tensor that was."""

    dims: int
    source: tuple[Any, ...]


def _observe(module: nn.Module, forward: Callable[[nn.Module], Mapping[str, Tensor]]) -> dict[str, _Seen]:
    """Return the weighted layers that are called, in order."""
    seen: dict[str, _Seen] = {}
    held: list[Any] = []

    def watch(name: str, part: nn.Module) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            if given and name not in seen:
                tensor = given[0]
                held.append(tensor)
                source = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor._version)
                seen[name] = _Seen(tensor.dim(), source)

        return part.register_forward_hook(hook)

    hooks = [watch(name, part) for name, part in module.named_modules() if _is_weighted(part)]
    _with_hooks(hooks, module, forward)
    return seen


def _with_hooks(hooks: list[Any], module: nn.Module, forward: Callable[[nn.Module], Mapping[str, Tensor]]) -> None:
    try:
        forward(module)
    finally:
        for hook in hooks:
            hook.remove()


def _shared(seen: Mapping[str, _Seen]) -> tuple[tuple[int, ...], ...]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, one in enumerate(seen.values()):
        groups.setdefault(one.source, []).append(index)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _layer(prepared: Prepared, name: str, seen: Mapping[str, _Seen]) -> Layer:
    from torch import nn

    owner, _, leaf = name.rpartition(".")
    if owner in prepared.attentions and leaf in (*qat_attention.PROJECTIONS, qat_attention.OUTPUT):
        parameter, rows = qat_attention.place(prepared.module.get_submodule(owner), leaf)
        once, thrice = ("Gemm", "MatMul"), ("MatMul", "MatMul_1", "MatMul_2", "Gemm")
        operators = once if leaf == qat_attention.OUTPUT else thrice
        return Layer(name, (owner,), operators, f"{owner}.{parameter}".strip("."), rows)
    norms = tuple(norm for norm, layer in prepared.folded.items() if layer == name)
    part = prepared.module.get_submodule(name)
    if not isinstance(part, nn.Linear):
        kinds: tuple[str, ...] = ("Conv",)
    elif seen[name].dims != 2:
        kinds = ("MatMul",)
    else:
        kinds = ("Gemm",) if part.bias is not None and not norms else ("Gemm", "MatMul")
    return Layer(name, (name, *norms), kinds, f"{name}.weight".strip("."))

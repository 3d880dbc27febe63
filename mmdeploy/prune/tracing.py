"""torch-pruning's dependency graph of a component: which channels of which layers must go together.

The graph is read off autograd (Fang et al., 2023, "DepGraph: Towards Any Structural Pruning"). Widths that must not
change are made visible to it: what enters and leaves the component, and what enters and leaves an excluded module,
is multiplied by a parameter of ones, so every group that reaches one of them holds that parameter. Recurrent layers
are cut out in the same way: torch-pruning takes their gates for channels.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import PruneError
from mmdeploy.model.sources import describe
from mmdeploy.model.torch_model import call_module
from mmdeploy.prune import bounds
from mmdeploy.prune.bounds import UntraceableError
from mmdeploy.prune.weights import matching

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """What is pruned.

    Attributes:
        name: Of the component, for messages.
        module: In eval mode.
        feed: Example inputs by name, batch on axis 0.
        outputs: Names of the outputs.
        root: Folder of the recipe, for file names in messages.
        exclude: Globs on paths of modules that keep their shape.
    """

    name: str
    module: nn.Module
    feed: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    root: Path
    exclude: tuple[str, ...] = ()

    def describe(self, error: Exception) -> str:
        """Say what the module's code raised, and where."""
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return describe(cause, self.root)

    def answer(self) -> list[Tensor]:
        """Run the module on the example inputs.

        Raises:
            ModelError: When it fails.
        """
        import torch

        with torch.no_grad():
            return list(call_module(self.module, self.feed, self.outputs, name=self.name).values())


@dataclass(frozen=True)
class Graph:
    """The dependency graph of a component.

    Attributes:
        dependencies: A ``torch_pruning.DependencyGraph``.
        paths: Path of each of the component's modules.
        fixed: What the parameter of ones with this id stands for: a width that must not change.
    """

    dependencies: Any
    paths: Mapping[nn.Module, str]
    fixed: Mapping[int, str]

    def whole_group(self, layer: nn.Module) -> Any:
        """Return what must go with the outputs of a layer.

        Raises:
            UntraceableError: When torch-pruning does not find it out.
        """
        pruner = self.dependencies.get_pruner_of_module(layer)
        return self.group(layer, pruner.prune_out_channels, range(pruner.get_out_channels(layer)))

    def cuts_outputs(self, dependency: Any) -> bool:
        """Say whether what a dependency takes out are outputs of its target."""
        return bool(self.dependencies.is_out_channel_pruning_fn(dependency.handler))

    def group(self, layer: nn.Module, cut: Callable[..., Any], channels: Sequence[int]) -> Any:
        """Return what must go with channels of a layer, a ``torch_pruning.Group``.

        Args:
            layer: The layer that the channels belong to.
            cut: torch-pruning's function that takes them out.
            channels: Numbers of the channels.

        Raises:
            UntraceableError: When torch-pruning does not find it out.
        """
        bounds.renew(self.dependencies)
        try:
            return self.dependencies.get_pruning_group(layer, cut, list(channels))
        except UntraceableError:
            raise
        except Exception as cause:
            raise UntraceableError(f"torch-pruning fails on it ({describe(cause)})") from cause


def trace(subject: Subject) -> Graph:
    """Build the dependency graph of a component.

    Raises:
        ModelError: When the module fails on the example inputs.
        PruneError: When it cannot be traced, naming the module to exclude.
    """
    subject.answer()
    with differentiable(subject.module):
        if (culprit := _cutting(subject)) is not None:
            why = "no gradient passes its forward (no_grad, inference_mode, detach, or leaving PyTorch)"
            raise _untraceable(subject.name, culprit, why)
        try:
            return _build(subject)
        except Exception as cause:
            raise _untraceable(subject.name, _failing(subject), subject.describe(cause)) from cause


def _untraceable(component: str, culprit: str, why: str) -> PruneError:
    what = f"its module {culprit!r}" if culprit else "the module"
    return PruneError(
        f"{component}: torch-pruning cannot trace {what}: {why}",
        hint=f"`exclude: [{culprit}]` keeps it, and the widths around it, as they are"
        if culprit
        else "`magnitude` and `n_m` need no tracing",
    )


def _build(subject: Subject) -> Graph:
    wrapper = _wrapped(subject)
    kept = _kept(subject)
    with _fixing(wrapper, kept):
        wrapper(**subject.feed)  # makes the parameters of ones, which torch-pruning looks for before it traces
        graph = _dependencies(wrapper, dict(subject.feed), ignored=list(kept))
    bounds.bind(graph, subject.module)
    paths = {part: path for path, part in subject.module.named_modules()}
    fixed = {id(wrapper.ones[key]): meaning for key, meaning in wrapper.meaning.items()}
    return Graph(graph, paths, fixed)


def _dependencies(module: nn.Module, feed: Any, *, ignored: Sequence[nn.Module] = ()) -> Any:
    import torch_pruning

    def forward(model: nn.Module, given: Any) -> Any:
        arguments, named = given if isinstance(given, tuple) else ((), given)
        return _tensors(model(*arguments, **named))

    graph: Any = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), _own_hooks_only(module):
        warnings.simplefilter("ignore")
        graph.build_dependency(
            module, example_inputs=feed, forward_fn=forward, ignored_layers=list(ignored), verbose=False
        )
    return graph


@contextlib.contextmanager
def _own_hooks_only(module: nn.Module) -> Iterator[None]:
    """Remove hooks that torch-pruning leaves behind when it fails."""
    before = {part: set(part._forward_hooks) for part in module.modules()}
    try:
        yield
    finally:
        for part, known in before.items():
            for key in set(part._forward_hooks) - known:
                del part._forward_hooks[key]


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested outputs that gradients reach."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value] if value.grad_fn is not None else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _kept(subject: Subject) -> dict[nn.Module, str]:
    """Return the modules that keep their shape with all that is inside, and why, in words behind their path."""
    from torch import nn

    found = {}
    for path, part in subject.module.named_modules():
        if path and matching(path, subject.exclude) is not None:
            found[part] = "which is excluded"
        elif isinstance(part, nn.RNNBase | nn.RNNCellBase):
            found[part] = "which is recurrent"
    return found


def _wrapped(subject: Subject) -> Any:
    """Return a module that holds the component, and the parameters of ones around fixed widths."""
    import torch
    from torch import nn

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.component = subject.module
            self.ones = nn.ParameterDict()
            self.meaning: dict[str, str] = {}
            self.further: list[Tensor] = []
            self.calls = 0

        def fix(self, value: Any, meaning: str) -> Any:
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() < 2:
                return value
            key, self.calls = f"{self.calls}", self.calls + 1
            if key not in self.ones:
                # Four axes for images: torch-pruning takes a parameter of three for a class token.
                shape = (1, value.shape[1], 1, 1) if value.dim() == 4 else (value.shape[-1],)
                self.ones[key] = nn.Parameter(torch.ones(shape, dtype=value.dtype))
                self.meaning[key] = meaning
            return value * self.ones[key]

        def forward(self, **feed: Tensor) -> list[Tensor]:
            self.calls, self.further = 0, []
            given = {name: self.fix(value, f"the component's input {name!r}") for name, value in feed.items()}
            named = call_module(self.component, given, subject.outputs, name=subject.name)
            answers = [self.fix(value, f"the component's output {name!r}") for name, value in named.items()]
            return [*answers, *self.further]

    return Wrapper().eval()


@contextlib.contextmanager
def _fixing(wrapper: Any, kept: Mapping[nn.Module, str]) -> Iterator[None]:
    """Cut the graph at modules that keep their shape and fix the widths on both sides while the context is open."""
    import torch

    paths = {part: path for path, part in wrapper.component.named_modules()}

    def fix_inputs(part: nn.Module, arguments: Any, named: Any) -> Any:
        meaning = f"the input of {paths[part]!r}, {kept[part]}"
        arguments = tuple(wrapper.fix(value, meaning) for value in arguments)
        named = {name: wrapper.fix(value, meaning) for name, value in named.items()}
        wrapper.further.extend(_tensors([arguments, named]))
        return arguments, named

    def fix_outputs(part: nn.Module, _: Any, returned: Any) -> Any:
        meaning = f"the output of {paths[part]!r}, {kept[part]}"
        return _mapped(
            returned, lambda value: wrapper.fix(value.detach(), meaning) if isinstance(value, torch.Tensor) else value
        )

    handles = [
        handle
        for part in kept
        for handle in (
            part.register_forward_pre_hook(fix_inputs, with_kwargs=True),
            part.register_forward_hook(fix_outputs),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    return type(value)(_mapped(part, change) for part in value) if type(value) in (tuple, list) else change(value)


@contextlib.contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Let gradients reach every parameter, frozen ones too, while the context is open."""
    import torch

    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _cutting(subject: Subject) -> str | None:
    """Return the path of the first module that stops gradients; None when there is none."""
    import torch

    wrapper = _wrapped(subject)
    found: list[str] = []
    enabled: dict[str, bool] = {}

    def before(path: str) -> Callable[..., None]:
        return lambda *_: enabled.update({path: torch.is_grad_enabled()})

    def after(path: str) -> Callable[..., None]:
        def look(part: nn.Module, arguments: Any, named: Any, returned: Any) -> None:
            floats = [value for value in _flat(returned) if value.is_floating_point()]
            expected = bool(_tensors([arguments, named])) or any(True for _ in part.parameters())
            if enabled[path] and expected and floats and not _tensors(floats):
                found.append(path)

        return look

    kept = _kept(subject)
    parts = [(path, part) for path, part in subject.module.named_modules() if part not in kept]
    handles = [
        handle
        for path, part in parts
        for handle in (
            part.register_forward_pre_hook(before(path)),
            part.register_forward_hook(after(path), with_kwargs=True),
        )
    ]
    try:
        with _fixing(wrapper, kept):
            wrapper(**subject.feed)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _flat(value: Any) -> list[Tensor]:
    import torch

    found: list[Tensor] = []
    _mapped(value, lambda part: found.append(part) if isinstance(part, torch.Tensor) else None)
    return found


def _failing(subject: Subject) -> str:
    """Return the path of the innermost module that fails to be traced alone; empty when none does."""
    calls: dict[str, tuple[Any, Any]] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda _, arguments, named: calls.update({path: (arguments, named)})

    kept = _kept(subject)
    parts = {path: part for path, part in subject.module.named_modules() if path and part not in kept}
    handles = [part.register_forward_pre_hook(keep(path), with_kwargs=True) for path, part in parts.items()]
    try:
        subject.answer()
    finally:
        for handle in handles:
            handle.remove()
    for path in sorted(calls, key=lambda name: -name.count(".")):
        try:
            _dependencies(parts[path], calls[path])
        except Exception:  # noqa: BLE001 - whatever it raises, this is the module that cannot be traced
            return path
    return ""

"""What the model around a trained component answers to a batch: computed when it is read, and kept where it recurs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from mmdeploy.model.torch_model import call_module

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from mmdeploy.recipe.schema import Component
    from mmdeploy.worker.missing_training import MissingInTraining

#: Answers of the original model to one batch, by ensemble tensor.
Known: TypeAlias = "dict[str, Tensor]"
#: Most bytes of answers that are kept over epochs.
MOST_KEPT = 256 * 2**20


@dataclass(frozen=True)
class Parts:
    """The modules of an ensemble.

    Attributes:
        components: Of the recipe.
        modules: By component, in the order in which they run.
        replaced: Components whose module is not the original model's.
    """

    components: Mapping[str, Component]
    modules: Mapping[str, nn.Module]
    replaced: frozenset[str] = frozenset()

    def as_originally(self) -> frozenset[str]:
        """Return the components that answer as in the original model: neither they nor what feeds them is replaced."""
        other = set[str]()
        found = set[str]()
        for name in self.modules:
            component = self.components[name]
            if name in self.replaced or other & {wire.tensor for wire in component.inputs.values()}:
                other |= {wire.tensor for wire in component.outputs.values()}
            else:
                found.add(name)
        return frozenset(found)


class Answers(Mapping[str, "Tensor"]):
    """Every tensor that a component writes for a batch; a component runs when one of its tensors is first read.

    So what neither the loss nor the metric reads costs nothing: the other tower of a retrieval, for one.
    """

    def __init__(
        self, parts: Parts, feeds: Mapping[str, Tensor], known: Known, missing: MissingInTraining
    ) -> None:  # fmt: skip
        """Answer a batch.

        Args:
            parts: Who answers.
            feeds: The ensemble's inputs.
            known: What the original model answers to the batch, as far as it is known; what is found is added.
            missing: What is done about inputs that may be missing.
        """
        import torch

        self._parts, self._feeds, self._known, self._missing = parts, feeds, known, missing
        self._tensors, not_run = missing.given(feeds), missing.not_run(feeds)
        self._shared = parts.as_originally()
        self._writers = {
            wire.tensor: name
            for name in parts.modules
            if name not in not_run
            for wire in parts.components[name].outputs.values()
        }
        given = [name for name in self._tensors if name not in feeds and name not in self._writers]
        self._names = (*given, *self._writers)
        self._with_gradients = torch.is_grad_enabled()

    def __getitem__(self, tensor: str) -> Tensor:
        if tensor in self._writers:
            self._run(self._writers[tensor])
        return self._tensors[tensor]

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _run(self, name: str) -> None:
        """Run a component, once, and what it reads before it."""
        import torch

        component = self._parts.components[name]
        written = [wire.tensor for wire in component.outputs.values()]
        if name in self._shared and all(tensor in self._known for tensor in written):
            answers = {key: self._known[wire.tensor] for key, wire in component.outputs.items()}
        else:
            # Copies: what works in place (x += positions) would change what is kept, and what others read.
            given = {key: self[wire.tensor].clone() for key, wire in component.inputs.items()}
            with torch.set_grad_enabled(self._with_gradients):
                module = _on(self._parts.modules[name], next(iter(self._feeds.values())).device)
                answers = call_module(module, given, tuple(component.outputs), name=name)
                answers = {
                    key: self._missing.standing(wire.tensor, answers[key], self._feeds)
                    for key, wire in component.outputs.items()
                }
            if name in self._shared:
                self._known |= {wire.tensor: answers[key] for key, wire in component.outputs.items()}
        for key, wire in component.outputs.items():
            self._tensors[wire.tensor] = answers[key]
            self._writers.pop(wire.tensor)


@dataclass
class Kept:
    """What the original model answers to batches that come again, as those of the validation split in every epoch."""

    most_bytes: int = MOST_KEPT
    _by_batch: dict[bytes, Known] = field(default_factory=dict)

    def of(self, feeds: Mapping[str, Tensor]) -> Known:
        """Return what is known of a batch with just these values, to be added to; new where there is no room."""
        digest = blake2b(digest_size=16)
        for name, tensor in sorted(feeds.items()):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape} {tensor.device} ".encode())
            digest.update(array.data)
        key = digest.digest()
        if key not in self._by_batch and self._bytes() >= self.most_bytes:
            return {}
        return self._by_batch.setdefault(key, {})

    def _bytes(self) -> int:
        return sum(tensor.nbytes for known in self._by_batch.values() for tensor in known.values())


def _on(module: nn.Module, place: device) -> nn.Module:
    """Move a module to a device, if it is not there."""
    tensor = next(module.parameters(), None)
    return module if tensor is None or tensor.device == place else module.to(place)

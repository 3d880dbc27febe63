"""The recipe's model as it was loaded before the process of a step was forked, given to the step as if loaded now.

Drawing or reading the weights of a large model takes seconds, and most steps want it. So a build loads it in one
process and forks steps from that (`mmdeploy.worker.model_process`). Each has a copy of its own, whose pages the kernel
shares until they are written to. What a step asks for twice is given twice only where both parts of the model have
nothing in common: else what one does could be seen by the other, and the factory is called again.
"""

from __future__ import annotations

import gc
import pickle
import random
import weakref
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: What cannot be changed, so that it may be in two parts; what it holds is looked at.
_FIXED = (tuple, frozenset, FunctionType, str, bytes, int, float, complex, Enum, type(None))
#: What leads to everything that is loaded, and is the process's own, not the model's.
_OUTSIDE = (type, ModuleType, CodeType, BuiltinFunctionType)


@dataclass
class RandomStates:
    """States of the process's random number generators, by library."""

    states: dict[str, Any]

    @classmethod
    def now(cls) -> RandomStates:
        """Take those of this process."""
        import numpy as np
        import torch

        torchs = torch.get_rng_state().numpy().tobytes()
        return cls({"torch": torchs, "numpy": np.random.get_state(legacy=False), "random": random.getstate()})

    def only(self, names: Iterable[str]) -> RandomStates:
        """Return those of some libraries."""
        return RandomStates({name: self.states[name] for name in names})

    def moved_since(self, before: RandomStates) -> set[str]:
        """Return the libraries whose state is another one than before."""
        return {name for name, state in self.states.items() if pickle.dumps(state) != pickle.dumps(before.states[name])}

    def restore(self) -> None:
        """Set the generators of this process."""
        import numpy as np
        import torch

        if state := self.states.get("torch"):
            torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        if state := self.states.get("numpy"):
            np.random.set_state(state)
        if state := self.states.get("random"):
            random.setstate(state)


@dataclass
class HeldModel:
    """A model that nobody has called or changed since it was loaded.

    Attributes:
        loaded_by: What `mmdeploy.model.torch_model.load_model` was asked for.
        model: The model.
        random: The generators that loading it moved, as it left them.
        reads: The log of what was read meanwhile (see `mmdeploy.model.watching`).
        given: Modules of it that the step works with.
    """

    loaded_by: Hashable
    model: nn.Module
    random: RandomStates
    reads: bytes = b""
    given: list[nn.Module] = field(default_factory=list)

    def give(self, parts: Sequence[nn.Module]) -> bool:
        """Note that the step works with some modules of the model; False if it may not, and must load its own."""
        if self.given and not apart(self.given, parts):
            return False
        self.given.extend(parts)
        self.random.restore()
        return True


_held: HeldModel | None = None


def hold(model: HeldModel) -> None:
    """Have this process, and those that are forked from it, take a model as loaded."""
    global _held
    _held = model


def held() -> HeldModel | None:
    """Return the model that this process holds; None in most."""
    return _held


def apart(ones: Sequence[nn.Module], others: Sequence[nn.Module]) -> bool:
    """Say whether modules have nothing in common that could be changed: no module, tensor, memory, list or object."""
    return not {*_reached(ones)} & {*_reached(others)}


def _reached(roots: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """Give what tells apart the things that lead on from some: through attributes, containers and closures."""
    import numpy as np
    import torch

    fixed = (*_FIXED, torch.dtype, torch.device, torch.layout, torch.memory_format)
    seen: dict[int, Any] = {}  # held, so that no address is given away meanwhile
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _OUTSIDE):
            continue
        seen[id(one)] = one
        if not isinstance(one, fixed):
            yield "object", id(one)
        if isinstance(one, torch.Tensor) and one.layout is torch.strided and one.numel():
            yield "memory", one.untyped_storage().data_ptr()
        if isinstance(one, np.ndarray) and one.size:
            yield "memory", _whole(one).__array_interface__["data"][0]
        waiting.extend(_behind(one))


def _behind(one: Any) -> list[Any]:
    import numpy as np
    from torch import nn

    if isinstance(one, FunctionType):  # its module's globals are the process's
        kept = {**(one.__kwdefaults__ or {}), **vars(one)}
        return [*(one.__closure__ or ()), *(one.__defaults__ or ()), *kept.values()]
    if isinstance(one, np.ndarray):
        return [one.tolist()] if one.dtype.hasobject else []
    if isinstance(one, weakref.ref):
        return [one()]
    known = gc.get_referents(one)
    if isinstance(one, nn.Module):  # a compiled one keeps them where Python does not see them
        known += [*one.parameters(recurse=False), *one.buffers(recurse=False), *one.children()]
    return known


def _whole(array: Any) -> Any:
    import numpy as np

    while isinstance(array.base, np.ndarray):
        array = array.base
    return array

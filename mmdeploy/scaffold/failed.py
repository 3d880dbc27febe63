"""What to say of a model that fails on its samples: where, what it takes there, and which other samples would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.errors import ModelError
from mmdeploy.model.failing import Failure, failure
from mmdeploy.model.sources import describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.core.artifact import Array

_Ask = Callable[[Mapping[str, "Tensor"]], object]


def failed(model: nn.Module, cause: Exception, batch: Mapping[str, Array], ask: _Ask, root: Path) -> ModelError:
    """Return the error of a model that failed on samples; it is asked again, to find out more.

    Args:
        model: It, in eval mode.
        cause: What it raised.
        batch: What it was asked with: arrays by input, as many rows as samples.
        ask: Asks it.
        root: Folder of the code, for messages.
    """
    import torch

    feed = {name: torch.from_numpy(array) for name, array in batch.items()}
    found = failure(model, lambda: ask(feed), feed)
    where = f": {found.text}" if found else ""
    rows = len(next(iter(batch.values())))
    samples = f"{rows} sample{'s' * (rows != 1)} ({shapes_text(batch)})"
    return ModelError(
        f"the model failed on a batch of {samples}{where}: {describe(cause, root)}",
        hint=_hint(batch, ask, found),
    )


def shapes_text(batch: Mapping[str, Array]) -> str:
    """Say what a batch is of: names, types and shapes."""
    return ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in batch.items())


def _hint(batch: Mapping[str, Array], ask: _Ask, found: Failure | None) -> str | None:
    """Say what is wrong with the samples, where another form of them would do."""
    import torch

    def works(changed: Mapping[str, Array]) -> bool:
        try:
            with torch.no_grad():
                ask({name: torch.from_numpy(array.copy()) for name, array in changed.items()})
        except Exception:  # noqa: BLE001 - tried
            return False
        return True

    rows = {array.shape[1] if array.ndim > 1 else 0 for array in batch.values()}
    if len(rows) == 1 and rows != {0} and works({name: array[:, 0] for name, array in batch.items()}):
        number = rows.pop()
        each = "" if number == 1 else f", or each of the {number} rows as a sample"
        return f"a sample has no batch dimension: give array[0]{each}"
    doubles = [name for name, array in batch.items() if array.dtype.name == "float64"]
    singles = {name: array.astype("float32") if name in doubles else array for name, array in batch.items()}
    if doubles and works(singles):
        return f"the model computes in FP32: give {' and '.join(f'{name}.astype(np.float32)' for name in doubles)}"
    if works({name: array[:1] for name, array in batch.items()}):
        return "with one sample alone it works: it must take batches (use x.shape[0] or -1 where it has 1)"
    return None if found is None else _hint_of(batch, found)


def _hint_of(batch: Mapping[str, Array], found: Failure) -> str | None:
    """Say how the inputs would be taken by the module that failed."""
    if not found.direct:
        if found.axis is None or not found.inputs:
            return None
        if len(found.inputs) == 1:
            return f"give {found.inputs[0]} in the size that the model was trained with: this follows from it"
        return (
            "the modules before write another width than this one takes: look at the model, or at their inputs' sizes"
        )
    name, array = found.inputs[0], batch[found.inputs[0]]
    if found.axis is not None:
        others = [axis for axis in range(1, array.ndim) if axis != found.axis and array.shape[axis] == found.width]
        if len(others) == 1:
            return f"its axes may be in another order: give np.moveaxis({name}, {others[0] - 1}, {found.axis - 1})"
        return f"give {name} as the model was trained with it: a sample has {found.width} in axis {found.axis - 1}"
    if found.takes:
        scaled = ", scaled as in training" if array.dtype.kind in "iu" and found.takes.startswith("float") else ""
        return f"give {name}.astype(np.{found.takes}){scaled}"
    return "give the ids of the tokenizer that the model was trained with" if "ids from" in found.text else None

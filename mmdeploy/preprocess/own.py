"""A function of the recipe's own: it takes a sample's tensors by name, and gives a sample's outputs.

What it does: ``path.py:callable`` is called for each sample with an argument for each of its inputs: a NumPy array
without a batch axis, or `bytes` for one string. It returns an array for its one output, or a dict by output name. A
ValueError refuses that sample, and its text is what the client is told.
When to choose it: for whatever no method here does.
What it needs: the packages that it imports, and those in ``requires_packages``. Its file, and modules beside the recipe
that this imports, are copied into the release.
Limits: outputs are what the recipe declares of them, or the request fails.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .refusal import NUMPY_BY_DTYPE, Array, RefusedError, Spec
from .siblings import Siblings


@dataclass(frozen=True)
class Own:
    """The method: made of what the recipe declares."""

    reference: str
    outputs: Mapping[str, Spec]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what the recipe declares."""
        return dict(self.outputs)

    def open(self, folder: Path) -> None:
        """Import the callable, with its folder on the path as long as that, or a call of it, takes.

        Raises:
            ValueError: If there is none.
        """
        file, _, name = self.reference.partition(":")
        siblings = Siblings(folder)
        with siblings.on_path():
            found: Any = _module(folder, file)
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise ValueError(f"{self.reference}: {file} has no callable {name!r}")  # noqa: TRY004
        object.__setattr__(self, "_function", found)
        object.__setattr__(self, "_siblings", siblings)

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Call it for one sample.

        Raises:
            RefusedError: For its ValueErrors.
        """
        function: Callable[..., Any] = getattr(self, "_function")  # noqa: B009 - the class is frozen
        given = {name: _plain(value) for name, value in values.items()}
        try:
            with getattr(self, "_siblings").on_path():  # noqa: B009 - the class is frozen
                answer = function(**given, **self.arguments)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        found = answer if isinstance(answer, Mapping) else {next(iter(self.outputs)): answer}
        return {name: self._checked(name, found.get(name), spec) for name, spec in self.outputs.items()}

    def _checked(self, name: str, value: Any, spec: Spec) -> Array:
        import numpy as np

        if value is None:
            raise TypeError(f"{self.reference} gave no output {name!r}")
        if spec.dtype == "BYTES":
            given = [value] if isinstance(value, str | bytes) else list(np.asarray(value, dtype=object).ravel())
            array: Array = np.empty(len(given), dtype=object)
            array[:] = [one.encode() if isinstance(one, str) else bytes(one) for one in given]
            return array
        array = np.asarray(value)
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype.name != NUMPY_BY_DTYPE[spec.dtype]:
            raise TypeError(
                f"{self.reference} gave {name!r} as {array.dtype.name} {list(array.shape)}, declared is "
                f"{spec.dtype} {list(spec.shape)}"
            )
        return array


def _plain(value: Array) -> Any:
    return value.reshape(-1)[0] if value.dtype == object and value.size == 1 else value


def _module(folder: Path, file: str) -> Any:
    if not file.endswith(".py"):
        return importlib.import_module(file)
    path = folder / file
    spec = importlib.util.spec_from_file_location(f"own_step_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"there is no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

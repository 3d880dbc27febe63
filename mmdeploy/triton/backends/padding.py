"""A step that pads requests to the next of a few lengths, and one that cuts answers back to the true one.

Triton's batcher puts requests of equal shapes together: padded to a bucket, requests of many lengths are of few shapes.
Either is a Python step of a release, told apart by its options, and needs NumPy alone. ``batch.py`` of the Python-based
backends lies beside it as ``requests_code.py``.

Options to pad: ``sizes`` (``buckets``, ``min``, ``max`` and ``multiple_of`` by the size's name), ``axes`` (by input,
the size of each padded axis, the batch counted), ``fill`` (by input, the value of padding). It gives the
inputs padded, then for each size the true length.
Options to cut: ``axes`` (by output). It takes the outputs, and for each size the true length by the size's name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Axes = Mapping[str, Mapping[str, str]]


class LengthError(ValueError):
    """A length that no bucket takes, in words for the client."""


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that a length fits into; the buckets ascend, and the last takes the largest length."""
    return next(bucket for bucket in buckets if length <= bucket)


def lengths_of(feed: Feed, axes: Axes, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the length of each size in a request.

    Raises:
        LengthError: If it is outside the size's bounds, or differs between inputs.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, by_axis in axes.items():
        for axis, size in by_axis.items():
            length, bounds = feed[name].shape[int(axis)], sizes[size]
            if not bounds["min"] <= length <= bounds["max"] or length % bounds["multiple_of"]:
                steps = f" in steps of {bounds['multiple_of']}" if bounds["multiple_of"] > 1 else ""
                raise LengthError(
                    f"input {name!r}: a length of {length}, accepted for {size!r}: "
                    f"{bounds['min']} to {bounds['max']}{steps}"
                )
            other, where = found.setdefault(size, (length, name))
            if other != length:
                raise LengthError(f"input {name!r} is {length} long where {where!r} is {other}: both are {size!r}")
    return {size: length for size, (length, _) in found.items()}


def padded(feed: Feed, options: Mapping[str, Any]) -> dict[str, Array]:
    """Return a request's inputs at the lengths of their buckets, and the true lengths, as the step calls them.

    Raises:
        LengthError: As `lengths_of`.
    """
    axes, sizes = options["axes"], options["sizes"]
    lengths = lengths_of(feed, axes, sizes)
    buckets = {size: bucket_of(length, sizes[size]["buckets"]) for size, length in lengths.items()}
    rows = len(next(iter(feed.values())))
    found = {f"{size}.length": np.full((rows, 1), length, np.int64) for size, length in lengths.items()}
    for name, by_axis in axes.items():
        array, widths = feed[name], [(0, 0)] * feed[name].ndim
        for axis, size in by_axis.items():
            widths[int(axis)] = (0, buckets[size] - lengths[size])
        found[f"{name}.padded"] = np.pad(array, widths, constant_values=options["fill"][name])
    return found


def cut(feed: Feed, axes: Axes) -> dict[str, Array]:
    """Return a request's outputs, cut to the true lengths, which are in the feed under the sizes' names."""
    found = {}
    for name, by_axis in axes.items():
        array = feed[name]
        pieces = [slice(None)] * array.ndim
        for axis, size in by_axis.items():
            pieces[int(axis)] = slice(int(feed[size].flat[0]))
        found[name] = np.ascontiguousarray(array[tuple(pieces)])
    return found


class TritonPythonModel:
    """One of the two, as Triton runs it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the options."""
        sys.path.insert(0, str(Path(__file__).parent))
        import requests_code

        config = json.loads(args["model_config"])
        options = json.loads(requests_code.string_parameters(config)["mmdeploy.options"])

        def run(feed: Feed) -> list[Array]:
            try:
                found = padded(feed, options) if "sizes" in options else cut(feed, options["axes"])
            except LengthError as error:
                raise requests_code.RefusalError(str(error)) from error
            return [found[tensor["name"]] for tensor in config["output"]]

        # Answers of one bucket have true lengths of their own.
        self._model = requests_code.BatchedModel(config, run, joins="sizes" in options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch."""
        answers: list[Any] = self._model.execute(requests)
        return answers

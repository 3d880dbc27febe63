"""What is in Triton's release images: a dated table, ``containers.json``, with where each value was found.

A value that could not be found is none (null in the table): nothing is held against it, and that is said. A tag of
which nothing was found is not in the table.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from mmdeploy.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Container:
    """One release image.

    Attributes:
        tag: Such as 26.08-py3.
        triton: Version of the server.
        cuda: Version of CUDA.
        python: Version of Python, as major.minor.
        tensorrt: Version of TensorRT, with its build.
        onnxruntime: Version of ONNX Runtime.
        onnx_opset: Newest opset that it loads.
        onnx_ir: Newest version of ONNX's IR that it loads.
        openvino: Version of OpenVINO.
    """

    tag: str
    triton: str
    cuda: str
    python: str | None
    tensorrt: str | None
    onnxruntime: str | None
    onnx_opset: int | None
    onnx_ir: int | None
    openvino: str | None

    @property
    def image(self) -> str:
        """The image by its tag, as a registry's client takes it."""
        return f"{_image()}:{self.tag}"

    @property
    def known(self) -> bool:
        """Whether every value was found."""
        return all(getattr(self, field.name) is not None for field in fields(self))

    @property
    def release(self) -> tuple[int, ...]:
        """Its month as numbers, for order: (26, 8)."""
        return numbers(self.tag.partition("-")[0])


def container(tag: str) -> Container:
    """Return what is known of an image; the registry in front of the tag may be given.

    Raises:
        UsageError: If the tag is not in the table.
    """
    known = containers()
    short = tag.removeprefix(f"{_image()}:")
    if short not in known:
        raise UsageError(
            f"container {tag!r} is not in the table of Triton's release images, which is of {dated()}: "
            f"{did_you_mean(short, known)}",
            hint="take one of these: what the others hold is not known, and nothing could be held against them",
        )
    return known[short]


def newest() -> Container:
    """Return the newest image of which everything is known."""
    return max((one for one in containers().values() if one.known), key=lambda one: one.release)


@functools.cache
def containers() -> dict[str, Container]:
    """Return the table, by tag."""
    return {tag: Container(tag, **values) for tag, values in _table()["containers"].items()}


def backends() -> tuple[str, ...]:
    """Return the backends that the images hold."""
    return tuple(_table()["backends"])


def dated() -> str:
    """Say when the table was made."""
    return str(_table()["dated"])


def numbers(version: str) -> tuple[int, ...]:
    """Return a version of digits and dots as numbers, for order."""
    return tuple(int(part) for part in version.split("."))


def _image() -> str:
    return str(_table()["image"])


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files(__package__).joinpath("containers.json").read_text(encoding="utf-8"))
    return table

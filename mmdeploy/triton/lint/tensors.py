"""Rules on the inputs and outputs of one model (core: ValidateModelIOConfig, LabelProvider)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories

_ANY = -1


def _tensors(model: Model) -> Iterator[tuple[str, Any]]:
    for side in ("input", "output"):
        for index, tensor in enumerate(getattr(model.parsed, side)):
            yield f"{side}[{index}]", tensor


def tensor_name(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find tensors without a name."""
    for at, tensor in _tensors(model):
        if not tensor.name:
            yield Hit(f"{at} has no name", "give it the name it has in the model file", at)


def tensor_dtype(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find tensors without a data type."""
    for at, tensor in _tensors(model):
        if not tensor.data_type:
            yield Hit(f"{tensor.name!r} has no data_type", "add one, such as data_type: TYPE_FP32", at)


def tensor_dims(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find empty shapes and sizes that are neither positive nor -1."""
    for at, tensor in _tensors(model):
        if not tensor.dims:
            yield Hit(
                f"{tensor.name!r} has no dims",
                "add them without the batch; a scalar is dims: [ 1 ] with reshape { shape: [ ] }",
                at,
            )
        for size in tensor.dims:
            if size < 1 and size != _ANY:
                yield Hit(
                    f"{tensor.name!r} has a dimension of {size}",
                    "sizes are 1 or more, or -1 where the size varies",
                    f"{at}.dims",
                )


def tensor_reshape(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find reshapes that do not keep the number of elements."""
    for at, tensor in _tensors(model):
        if not tensor.HasField("reshape") or not tensor.dims:
            continue
        dims, shape = list(tensor.dims), list(tensor.reshape.shape)
        if any(size < 1 and size != _ANY for size in shape):
            yield Hit(f"{tensor.name!r} is reshaped to {shape}", "sizes are 1 or more, or -1", f"{at}.reshape")
        elif not shape and not model.parsed.max_batch_size:
            yield Hit(
                f"{tensor.name!r} is reshaped to a scalar, but the model does not batch",
                "Triton has no scalars: remove reshape",
                f"{at}.reshape",
            )
        elif _runs(dims) != _runs(shape):
            yield Hit(
                f"{tensor.name!r} is reshaped from {dims} to {shape}, which hold different counts",
                "make the products equal, between every two -1 as well",
                f"{at}.reshape",
            )


def _runs(dims: Sequence[int]) -> list[int]:
    """Return the number of elements between the dimensions that vary."""
    runs: list[list[int]] = [[]]
    for size in dims:
        if size == _ANY:
            runs.append([])
        else:
            runs[-1].append(size)
    return [math.prod(run) for run in runs]


def tensor_format(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find image formats without three dims, and forms of tensors that only TensorRT has."""
    for at, tensor in _tensors(model):
        if at.startswith("input") and tensor.format and len(tensor.dims) != 3:
            yield Hit(
                f"{tensor.name!r} has an image format and {len(tensor.dims)} dims",
                "FORMAT_NHWC and FORMAT_NCHW take 3 dims: change dims or remove format",
                f"{at}.format",
            )
        for flag in ("is_shape_tensor", "is_non_linear_format_io"):
            if getattr(tensor, flag) and model.backend != "tensorrt":
                yield Hit(f"{tensor.name!r} has {flag}, which only TensorRT takes", f"remove {flag}", f"{at}.{flag}")
        if tensor.is_non_linear_format_io and model.backend == "tensorrt" and len(tensor.dims) != 3:
            yield Hit(f"{tensor.name!r} has a non-linear format and {len(tensor.dims)} dims", "it takes 3 dims", at)


def label_file(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find label files that are not there."""
    for index, tensor in enumerate(model.parsed.output):
        if tensor.label_filename and not (model.folder / tensor.label_filename).is_file():
            yield Hit(
                f"label file {tensor.label_filename!r} of output {tensor.name!r} is missing in {model.name}/",
                "put it beside config.pbtxt, one label a line, or remove label_filename",
                f"output[{index}].label_filename",
            )


def label_outside(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find label files outside of the model's folder: 2.51 reads them, newer servers refuse."""
    for index, tensor in enumerate(model.parsed.output):
        path = (model.folder / tensor.label_filename).resolve()
        if tensor.label_filename and path.is_file() and not path.is_relative_to(model.folder.resolve()):
            yield Hit(
                f"label file {tensor.label_filename!r} is outside of {model.name}/, newer servers refuse it",
                "copy it beside config.pbtxt",
                f"output[{index}].label_filename",
            )


def tensor_duplicate(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find two inputs or two outputs of one name: the model loads and then refuses every request."""
    for side in ("input", "output"):
        names = [tensor.name for tensor in getattr(model.parsed, side)]
        for name, count in Counter(names).items():
            if count > 1:
                last = len(names) - 1 - names[::-1].index(name)
                yield Hit(f"{side} {name!r} is declared {count} times", "remove all but one", f"{side}[{last}]")


def batch_tensor(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find batch_input and batch_output whose source or target does not exist."""
    from tritonclient.grpc.model_config_pb2 import DataType

    config = model.parsed
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    for side in ("batch_input", "batch_output"):
        for index, entry in enumerate(getattr(config, side)):
            at = f"{side}[{index}]"
            if len(entry.source_input) != 1:
                yield Hit(f"{at} has {len(entry.source_input)} source inputs", "it takes exactly one", at)
            for name in set(entry.source_input) - inputs:
                yield Hit(f"{at} takes input {name!r}, which the model does not have", "name one of its inputs", at)
    for index, entry in enumerate(config.batch_input):
        if DataType.Name(entry.data_type) not in ("TYPE_INT32", "TYPE_FP32"):
            at = f"batch_input[{index}].data_type"
            yield Hit(f"{at} is neither TYPE_INT32 nor TYPE_FP32", "use one of them", at)
    for index, entry in enumerate(config.batch_output):
        for name, count in Counter(entry.target_name).items():
            if name not in outputs or count > 1:
                reason = "which the model does not have" if name not in outputs else "more than once"
                yield Hit(
                    f"batch_output[{index}] writes output {name!r}, {reason}",
                    "name each output once",
                    f"batch_output[{index}]",
                )

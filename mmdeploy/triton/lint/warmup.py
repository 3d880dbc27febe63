"""Rules on model_warmup: Triton runs the samples while it loads, and a failing one fails the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmdeploy.triton.config import WARMUP_FOLDER
from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.raw_tensors import byte_problem
from mmdeploy.triton.lint.reading import Model, Repositories


def _samples(model: Model) -> Iterator[tuple[str, Any]]:
    if model.is_ensemble:
        return
    for index, sample in enumerate(model.parsed.model_warmup):
        if sample.batch_size:  # a sample of batch size 0 is skipped
            yield f"model_warmup[{index}]", sample


def warmup_batch_size(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find samples larger than max_batch_size: backends refuse them, the python backend dies of it."""
    largest = max(1, model.parsed.max_batch_size)
    for at, sample in _samples(model):
        if sample.batch_size > largest:
            yield Hit(
                f"warm-up {sample.name!r} has batch size {sample.batch_size}, above max_batch_size "
                f"{model.parsed.max_batch_size}: it can take the whole server down",
                f"set it to {largest} or less",
                f"{at}.batch_size",
            )


def warmup_input_missing(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find samples that leave a required input out."""
    for at, sample in _samples(model):
        for tensor in model.parsed.input:
            if not tensor.optional and tensor.name not in sample.inputs:
                yield Hit(f"warm-up {sample.name!r} lacks input {tensor.name!r}", "add it", f"{at}.inputs")


def warmup_tensor(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find sample tensors of another type or shape than the model's input, or with open sizes."""
    from tritonclient.grpc.model_config_pb2 import DataType

    batched = model.parsed.max_batch_size > 0
    for at, sample in _samples(model):
        for name, given in sorted(sample.inputs.items()):
            declared = next((tensor for tensor in model.parsed.input if tensor.name == name), None)
            dims = list(given.dims)
            if -1 in dims:
                yield Hit(f"warm-up input {name!r} has an open size: {dims}", "give every size", f"{at}.inputs")
            elif declared and given.data_type != declared.data_type:
                kinds = DataType.Name(given.data_type), DataType.Name(declared.data_type)
                yield Hit(
                    f"warm-up input {name!r} is {kinds[0]}, the model takes {kinds[1]}",
                    "use that",
                    f"{at}.inputs",
                )
            elif declared and not _fits(dims, list(declared.dims)):
                without = " (without the batch)" if batched else ""
                yield Hit(
                    f"warm-up input {name!r} is {dims}, the model takes {list(declared.dims)}{without}",
                    "use that shape",
                    f"{at}.inputs",
                )


def _fits(given: list[int], declared: list[int]) -> bool:
    if len(given) != len(declared):
        return False
    return all(want in (-1, got) for want, got in zip(declared, given, strict=True))


def warmup_data(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find sample tensors without data, or whose file is not there or holds too little."""
    from tritonclient.grpc.model_config_pb2 import DataType

    for at, sample in _samples(model):
        for name, given in sorted(sample.inputs.items()):
            source = given.WhichOneof("input_data_type")
            if source is None:
                yield Hit(
                    f"warm-up input {name!r} has no data",
                    "add one of zero_data: true, random_data: true and input_data_file",
                    f"{at}.inputs",
                )
            elif source == "input_data_file":
                name, kind = f"{model.name}/{WARMUP_FOLDER}/{given.input_data_file}", DataType.Name(given.data_type)
                path = model.folder / WARMUP_FOLDER / given.input_data_file
                if problem := byte_problem(path, kind, math.prod(given.dims), exact_strings=True):
                    yield Hit(f"{name} {problem}", "put the raw tensor of one sample there", f"{at}.inputs")


def warmup_input_unknown(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find sample tensors that the model does not declare: Triton passes them on as they are."""
    known = {tensor.name for tensor in model.parsed.input}
    for at, sample in _samples(model):
        for name in sorted(sample.inputs.keys() - known):
            if known:
                yield Hit(f"warm-up gives {name!r}, which is no input of the model", "remove it", f"{at}.inputs")

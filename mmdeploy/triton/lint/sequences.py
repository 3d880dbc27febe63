"""Rules on sequence batching: control tensors and states (core: sequence_utils, sequence_batch_scheduler)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.raw_tensors import byte_problem
from mmdeploy.triton.lint.reading import INITIAL_STATE_FOLDER, Model, Repositories

_CORRELATION_ID = "CONTROL_SEQUENCE_CORRID"
_CORRELATION_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def sequence_batching(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find sequence batchers with broken controls or slot utilization."""
    batcher = model.parsed.sequence_batching
    if not 0 <= batcher.direct.minimum_slot_utilization <= 1:
        yield Hit(
            f"minimum_slot_utilization is {batcher.direct.minimum_slot_utilization}",
            "it is a share, within 0 and 1",
            "sequence_batching.direct.minimum_slot_utilization",
        )
    for index, tensor in enumerate(batcher.control_input):
        at = f"sequence_batching.control_input[{index}]"
        if not tensor.name:
            yield Hit("a sequence control tensor has no name", "name it", at)
        for control in tensor.control:
            yield from _control(control, at)
    yield from _repeated(batcher)


def _control(control: Any, at: str) -> Iterator[Hit]:
    from tritonclient.grpc.model_config_pb2 import DataType

    given = [
        values for values in (control.int32_false_true, control.fp32_false_true, control.bool_false_true) if values
    ]
    kind, data_type = control.Kind.Name(control.kind), DataType.Name(control.data_type)
    if kind == _CORRELATION_ID:
        if given:
            yield Hit(f"{kind} takes a data_type, not values for false and true", "remove them", at)
        elif data_type not in _CORRELATION_TYPES:
            yield Hit(f"{kind} has data_type {data_type}", f"use one of {', '.join(_CORRELATION_TYPES)}", at)
    elif len(given) != 1 or len(given[0]) != 2:
        yield Hit(
            f"{kind} needs its values for false and true",
            "add one of int32_false_true, fp32_false_true and bool_false_true, with two values",
            at,
        )


def _repeated(batcher: Any) -> Iterator[Hit]:
    """Find kinds of control that are given twice, and tensors that are listed twice."""
    controls = [control for tensor in batcher.control_input for control in tensor.control]
    for kind, count in Counter(control.Kind.Name(control.kind) for control in controls).items():
        if count > 1:
            yield Hit(f"{kind} is given {count} times", "give each control once", "sequence_batching.control_input")
    for name, count in Counter(tensor.name for tensor in batcher.control_input if tensor.name).items():
        if count > 1:
            yield Hit(
                f"control tensor {name!r} is listed {count} times",
                "give each control a tensor of its own",
                "sequence_batching.control_input",
            )


def sequence_state(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find initial states that do not fit their state, or whose file is missing or too short."""
    for index, state in enumerate(model.parsed.sequence_batching.state):
        at = f"sequence_batching.state[{index}]"
        if len(state.initial_state) > 1:
            yield Hit(f"state {state.input_name!r} has {len(state.initial_state)} initial states", "give one", at)
        elif state.initial_state and (problem := _initial_problem(model, state, state.initial_state[0])):
            yield Hit(f"the initial state of {state.input_name!r} {problem[0]}", problem[1], f"{at}.initial_state")


def _initial_problem(model: Model, state: Any, initial: Any) -> tuple[str, str] | None:
    from tritonclient.grpc.model_config_pb2 import DataType

    dims = list(initial.dims)
    if not initial.name:
        return "has no name", "name it"
    if initial.data_type != state.data_type:
        kinds = DataType.Name(initial.data_type), DataType.Name(state.data_type)
        return f"is {kinds[0]}, the state is {kinds[1]}", "make them one type"
    if len(dims) != len(state.dims):
        return f"is {dims}, the state is {list(state.dims)}", "use that shape"
    if -1 in dims:
        return f"has an open size: {dims}", "give every size"
    if any(want not in (-1, got) for want, got in zip(state.dims, dims, strict=True)):
        return f"is {dims}, the state is {list(state.dims)}", "use that shape"
    source = initial.WhichOneof("state_data")
    if source is None:
        return "has no data", "add zero_data: true or data_file"
    if source != "data_file":
        return None
    path = model.folder / INITIAL_STATE_FOLDER / initial.data_file
    problem = byte_problem(path, DataType.Name(initial.data_type), math.prod(dims))
    name = f"{model.name}/{INITIAL_STATE_FOLDER}/{initial.data_file}"
    return None if problem is None else (f"in {name} {problem}", "put the raw tensor there")

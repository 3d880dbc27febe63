"""Rules on one ensemble's own configuration (core: ValidateEnsembleSchedulingConfig)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import ENSEMBLE, Model, Repositories


def _step(index: int) -> str:
    return f"ensemble_scheduling.step[{index}]"


def ensemble_platform(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find an ensemble without steps, and steps in what is no ensemble."""
    config = model.parsed
    if config.HasField("ensemble_scheduling") and config.platform != ENSEMBLE:
        yield Hit(
            f"ensemble_scheduling in a model whose platform is {config.platform!r}",
            'set platform: "ensemble" and remove backend',
            "ensemble_scheduling",
        )
    elif config.platform == ENSEMBLE and not config.ensemble_scheduling.step:
        yield Hit(
            "an ensemble without steps",
            "add ensemble_scheduling { step { ... } }",
            "ensemble_scheduling" if config.HasField("ensemble_scheduling") else "platform",
        )


def ensemble_field(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find sections that belong to the steps' models."""
    config = model.parsed
    if not model.is_ensemble:
        return
    for name in ("instance_group", "optimization", "model_warmup"):
        if config.HasField(name) if name == "optimization" else getattr(config, name):
            yield Hit(f"an ensemble cannot have {name}", "move it to the models of its steps", name)


def ensemble_step_field(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that name no model, take nothing or give nothing."""
    for index, step in enumerate(model.parsed.ensemble_scheduling.step):
        for name in ("model_name", "input_map", "output_map"):
            if not getattr(step, name):
                yield Hit(f"step {index} has no {name}", "add it", _step(index))


def ensemble_written_twice(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find ensemble tensors that two outputs write."""
    writers: dict[str, str] = {}
    for index, step in enumerate(model.parsed.ensemble_scheduling.step):
        for output, tensor in sorted(step.output_map.items()):
            if tensor in writers:
                yield Hit(
                    f"tensor {tensor!r} is written by {writers[tensor]} and by {step.model_name}.{output}",
                    "give one of them another name",
                    f"{_step(index)}.output_map",
                )
            writers.setdefault(tensor, f"{step.model_name}.{output}")


@dataclass(frozen=True)
class _Flow:
    """The tensors of an ensemble, and which of them are ever written."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    #: Index of the step that writes a tensor, and of those that read it.
    writer: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)


def _flow(model: Model) -> _Flow:
    config = model.parsed
    flow = _Flow(frozenset(tensor.name for tensor in config.input), frozenset(tensor.name for tensor in config.output))
    steps = config.ensemble_scheduling.step
    for index, step in enumerate(steps):
        for tensor in step.output_map.values():
            flow.writer.setdefault(tensor, index)
        for tensor in step.input_map.values():
            flow.readers.setdefault(tensor, []).append(index)
    flow.ready.update(flow.inputs)
    waiting = list(steps)
    while runnable := [step for step in waiting if flow.ready.issuperset(step.input_map.values())]:
        waiting = [step for step in waiting if step not in runnable]
        for step in runnable:
            flow.ready.update(step.output_map.values())
    return flow


def ensemble_input_unused(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find ensemble inputs that no step takes."""
    if not model.parsed.ensemble_scheduling.step:
        return
    flow = _flow(model)
    for index, tensor in enumerate(model.parsed.input):
        if tensor.name not in flow.readers and tensor.name not in flow.writer:
            yield Hit(f"input {tensor.name!r} is used by no step", "remove it, or map it", f"input[{index}]")


def ensemble_output_unwritten(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find ensemble outputs that no step gives."""
    if not model.parsed.ensemble_scheduling.step:
        return
    flow = _flow(model)
    for index, tensor in enumerate(model.parsed.output):
        if tensor.name not in flow.writer and tensor.name not in flow.inputs:
            yield Hit(
                f"output {tensor.name!r} is written by no step",
                "map a step's output to it",
                f"output[{index}]",
            )


def ensemble_tensor_unfed(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find step inputs that nothing feeds."""
    flow = _flow(model)
    for tensor, readers in flow.readers.items():
        if tensor not in flow.writer and tensor not in flow.inputs:
            name = model.parsed.ensemble_scheduling.step[readers[0]].model_name
            yield Hit(
                f"step {readers[0]} ({name}) takes tensor {tensor!r}, which is no input of the ensemble "
                "and which no step writes",
                "check the spelling in input_map",
                f"{_step(readers[0])}.input_map",
            )


def ensemble_cycle(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that wait for each other."""
    flow = _flow(model)
    steps = model.parsed.ensemble_scheduling.step
    unfed = {name for name in flow.readers if name not in flow.writer and name not in flow.inputs}
    # What hangs on an unfed tensor is reported there; what is still not ready then is a cycle or behind one.
    reached = flow.ready | unfed
    while fresh := {
        tensor
        for step in steps
        if reached.issuperset(step.input_map.values())
        for tensor in step.output_map.values()
        if tensor not in reached
    }:
        reached |= fresh
    stuck = sorted(tensor for tensor in flow.writer if tensor not in reached)
    if stuck:
        first = min(flow.writer[tensor] for tensor in stuck)
        yield Hit(
            f"steps wait for each other in a circle: {', '.join(stuck)}",
            "a tensor cannot depend on itself",
            _step(first),
        )


def ensemble_tensor_unused(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find tensors that a step writes and nothing takes."""
    flow = _flow(model)
    for tensor, index in flow.writer.items():
        if tensor not in flow.readers and tensor not in flow.outputs:
            yield Hit(
                f"tensor {tensor!r} is used by no step and is no output",
                "remove it from output_map, or make it an output of the ensemble",
                f"{_step(index)}.output_map",
            )


def ensemble_input_overwritten(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that write what the client sends: Triton loads it, and steps may read either."""
    flow = _flow(model)
    for tensor in sorted(flow.inputs & flow.writer.keys()):
        index = flow.writer[tensor]
        yield Hit(f"step {index} writes the ensemble's input {tensor!r}", "give it another name", _step(index))


def ensemble_latest_version(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that take the newest version: in a swap they can mix old and new models."""
    for index, step in enumerate(model.parsed.ensemble_scheduling.step):
        if step.model_version == -1:
            yield Hit(
                f"step {index} ({step.model_name}) takes the newest version: a swap can mix old and new",
                "name the version: model_version: 1",
                f"{_step(index)}.model_version",
            )

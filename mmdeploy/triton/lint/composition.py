"""Rules on an ensemble and the models of its steps (core: ValidateEnsembleConfig, DependencyGraph)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.errors import did_you_mean
from mmdeploy.triton.config import SyntaxProblem
from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories


@dataclass(frozen=True)
class _Step:
    """A step whose model is there and readable."""

    at: str
    fields: Any
    model: Model

    def tensors(self, side: str) -> dict[str, Any]:
        """Return the model's declared tensors; none where its backend is to fill them in."""
        return {tensor.name: tensor for tensor in getattr(self.model.parsed, side)}


def _steps(model: Model, repositories: Repositories) -> Iterator[_Step]:
    for index, step in enumerate(model.parsed.ensemble_scheduling.step):
        taken = repositories.by_name.get(step.model_name)
        if taken is not None and not isinstance(taken.config, SyntaxProblem):
            yield _Step(f"ensemble_scheduling.step[{index}]", step, taken)


def ensemble_model_unknown(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps whose model is in no repository."""
    names = {other.name for other in repositories.models}
    for index, step in enumerate(model.parsed.ensemble_scheduling.step):
        if step.model_name and step.model_name not in names:
            yield Hit(
                f"step {index} takes model {step.model_name!r}, which is not there: "
                f"{did_you_mean(step.model_name, names - {model.name})}",
                "correct the name, or add the model",
                f"ensemble_scheduling.step[{index}].model_name",
            )


def ensemble_model_circle(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find an ensemble that takes itself as a step, directly or through others."""
    seen: set[str] = set()
    waiting = [step.model_name for step in model.parsed.ensemble_scheduling.step]
    while waiting:
        name = waiting.pop()
        if name == model.name:
            yield Hit(
                "the ensemble is a step of itself, directly or through another",
                "break the circle",
                "ensemble_scheduling",
            )
            return
        if name not in seen and name in repositories.by_name:
            seen.add(name)
            waiting += [step.model_name for step in repositories.by_name[name].parsed.ensemble_scheduling.step]


def ensemble_step_version(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that want a version that is not served."""
    for step in _steps(model, repositories):
        wanted, served = step.fields.model_version, step.model.served_versions
        if wanted != -1 and wanted not in served:
            there = ", ".join(map(str, served)) or "none"
            unset = " (model_version is not set)" if wanted == 0 else ""
            yield Hit(
                f"the step wants version {wanted}{unset} of {step.model.name!r}, which serves: {there}",
                "name a version that is served",
                f"{step.at}.model_version",
            )


def ensemble_step_tensor(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find mappings of inputs and outputs that the step's model does not have."""
    for step in _steps(model, repositories):
        for side in ("input", "output"):
            known = step.tensors(side)
            for name in sorted(getattr(step.fields, f"{side}_map")):
                if known and name not in known:
                    yield Hit(
                        f"model {step.model.name!r} has no {side} {name!r}: {did_you_mean(name, known)}",
                        f"correct {side}_map",
                        f"{step.at}.{side}_map",
                    )


def ensemble_step_input_unmapped(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find required inputs of a step's model that are mapped to nothing."""
    for step in _steps(model, repositories):
        for name, tensor in step.tensors("input").items():
            if name not in step.fields.input_map and not tensor.optional:
                yield Hit(
                    f"input {name!r} of model {step.model.name!r} is mapped to nothing",
                    "add it to input_map",
                    f"{step.at}.input_map",
                )


def ensemble_batch_size(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps that take smaller batches than the ensemble promises."""
    promised = model.parsed.max_batch_size
    for step in _steps(model, repositories):
        largest = step.model.parsed.max_batch_size
        if 0 < largest < promised:
            yield Hit(
                f"the ensemble takes batches of {promised}, but {step.model.name!r} only of {largest}",
                f"set the ensemble's max_batch_size to {largest} or less",
                "max_batch_size",
            )


def ensemble_queue_limit(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find steps whose queue is limited: with other steps beside them an overflow ends the server.

    A segmentation fault, or requests that are never answered (triton-inference-server/core, pull request 470).
    """
    steps = model.parsed.ensemble_scheduling.step
    for step in _steps(model, repositories) if len(steps) > 1 else ():
        batching = step.model.parsed.dynamic_batching
        policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
        if limit := max(policy.max_queue_size for policy in policies):
            yield Hit(
                f"the queue of {step.model.name!r} takes {limit} requests: one more, and Triton before 26.02 crashes "
                "or leaves requests of the ensemble without an answer",
                "remove max_queue_size (default_timeout_microseconds is safe), or do not make it a step",
                f"{step.at}.model_name",
            )


@dataclass(frozen=True)
class _Seen:
    """What one place says of an ensemble tensor."""

    who: str
    data_type: int
    dims: tuple[int, ...]
    batched: bool
    at: str

    @property
    def full(self) -> tuple[int, ...]:
        """Shape with the batch dimension where there is one."""
        return (-1, *self.dims) if self.batched else self.dims


def _sightings(model: Model, repositories: Repositories) -> Iterator[tuple[str, _Seen]]:
    """Give what the ensemble itself and then each step says of every tensor."""
    config = model.parsed
    for side in ("input", "output"):
        for index, tensor in enumerate(getattr(config, side)):
            # An ensemble's reshape counts, a step model's does not.
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            who = f"the ensemble's {side}"
            yield (
                tensor.name,
                _Seen(who, tensor.data_type, tuple(dims), config.max_batch_size > 0, f"{side}[{index}]"),
            )
    for step in _steps(model, repositories):
        batched = step.model.parsed.max_batch_size > 0
        for side in ("input", "output"):
            declared = step.tensors(side)
            for name, tensor in sorted(getattr(step.fields, f"{side}_map").items()):
                if name in declared:
                    found = declared[name]
                    who, at = f"{side} {name!r} of {step.model.name!r}", f"{step.at}.{side}_map"
                    yield tensor, _Seen(who, found.data_type, tuple(found.dims), batched, at)


def _clashes(model: Model, repositories: Repositories) -> Iterator[tuple[str, _Seen, _Seen]]:
    if not model.is_ensemble:  # of any other an input and an output may have one name
        return
    first: dict[str, _Seen] = {}
    for tensor, seen in _sightings(model, repositories):
        # The first word on a tensor stands, as it does in Triton.
        if (said := first.setdefault(tensor, seen)) is not seen:
            yield tensor, said, seen


def ensemble_dtype(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find ensemble tensors that two places give different types."""
    from tritonclient.grpc.model_config_pb2 import DataType

    for tensor, said, seen in _clashes(model, repositories):
        if said.data_type != seen.data_type:
            yield Hit(
                f"tensor {tensor!r} is {DataType.Name(said.data_type)} as {said.who}, but "
                f"{DataType.Name(seen.data_type)} as {seen.who}",
                "make them one type",
                seen.at,
            )


def ensemble_shape(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find ensemble tensors that two places give shapes that never fit."""
    for tensor, said, seen in _clashes(model, repositories):
        if not _compatible(said.dims, seen.dims) and not _compatible(said.full, seen.full):
            yield Hit(
                f"tensor {tensor!r} is {list(said.full)} as {said.who}, but {list(seen.full)} as {seen.who}",
                "make them one shape; -1 fits any size",
                seen.at,
            )


def _compatible(one: Sequence[int], other: Sequence[int]) -> bool:
    if len(one) != len(other):
        return False
    return all(-1 in (left, right) or left == right for left, right in zip(one, other, strict=True))


def ensemble_optional(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find optional ensemble inputs that a step needs: leaving them out fails the request."""
    optional = {tensor.name: index for index, tensor in enumerate(model.parsed.input) if tensor.optional}
    for step in _steps(model, repositories):
        declared = step.tensors("input")
        for name, tensor in sorted(step.fields.input_map.items()):
            if tensor in optional and name in declared and not declared[name].optional:
                yield Hit(
                    f"input {tensor!r} is optional, but {step.model.name!r} needs it as {name!r}",
                    "make that input optional too, or this one required",
                    f"input[{optional[tensor]}]",
                )

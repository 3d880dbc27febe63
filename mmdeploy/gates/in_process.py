"""A deployment without a server: component runners wired in this process.

For diagnosis and for measuring what serving adds; the verdict on a build comes from a real Triton. It
satisfies `mmdeploy.core.contracts.Deployment`, so every gate runs on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import psutil

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Array, FeedDict, Runner, WiredComponent
from mmdeploy.core.errors import InferenceError


class InProcessDeployment:
    """Components wired into an ensemble, run one after the other in the caller's thread.

    Args:
        components: Wiring, in an order in which each follows what feeds it.
        open_runner: Opens a runner by component name; called once for each connection.
        outputs: Names of the ensemble's outputs.
        size_bytes_by_component: What `size_bytes` says.
    """

    def __init__(
        self,
        components: Sequence[WiredComponent],
        open_runner: Mapping[str, Callable[[], Runner]],
        outputs: Sequence[str],
        size_bytes_by_component: Mapping[str, int],
    ) -> None:
        self._components, self._outputs = tuple(components), tuple(outputs)
        self._open_runner, self._sizes = dict(open_runner), dict(size_bytes_by_component)

    def runner(self, model: str | None = None) -> Runner:
        """Open a component's runner, or one of the whole ensemble."""
        if model is not None:
            return self._open_runner[model]()
        runners = [self._open_runner[component.name]() for component in self._components]
        return _EnsembleRunner(self._components, runners, self._outputs)

    def memory_bytes(self) -> int:
        """Return the resident set of this process."""
        return int(psutil.Process(os.getpid()).memory_info().rss)

    def size_bytes(self) -> Mapping[str, int]:
        """Return the bytes of each component's engine."""
        return self._sizes


class _EnsembleRunner:
    def __init__(self, components: Sequence[WiredComponent], runners: Sequence[Runner], outputs: Sequence[str]) -> None:
        self._steps, self._wanted = list(zip(components, runners, strict=True)), tuple(outputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What no component writes."""
        written = {tensor for component, _ in self._steps for tensor in component.outputs.values()}
        specs: dict[str, TensorSpec] = {}
        for component, runner in self._steps:
            for spec in runner.inputs:
                tensor = component.inputs[spec.name]
                if tensor not in written:
                    specs[tensor] = TensorSpec(tensor, spec.dtype, spec.shape)
        return tuple(specs.values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The ensemble's outputs in their declared order."""
        specs = {
            component.outputs[spec.name]: TensorSpec(component.outputs[spec.name], spec.dtype, spec.shape)
            for component, runner in self._steps
            for spec in runner.outputs
        }
        return tuple(specs[name] for name in self._wanted)

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Run the components in order."""
        tensors = dict(feed_dict)
        for component, runner in self._steps:
            try:
                feed = {name: tensors[tensor] for name, tensor in component.inputs.items()}
            except KeyError as error:
                raise InferenceError(f"{component.name} lacks the tensor {error.args[0]!r}") from error
            for name, array in runner.infer(feed).items():
                tensors[component.outputs[name]] = array
        return {name: tensors[name] for name in self._wanted}

    def close(self) -> None:
        """Close the components' runners."""
        for _, runner in self._steps:
            runner.close()

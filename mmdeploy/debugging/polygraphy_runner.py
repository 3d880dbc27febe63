"""A runner for ``polygraphy run``: ``--mmdeploy`` runs an ONNX graph on one of mmdeploy's engines, as it is served.

Polygraphy finds it by the entry point ``polygraphy.run.plugins``. ``--mmdeploy-engine`` takes the recipe's section in
JSON, such as ``'{"method": "openvino", "precision": "bf16"}'``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy import engines
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.sessions import open_session, specs
from mmdeploy.core.target import Target, usable_cores
from mmdeploy.core.temporary import hold_folder


def argument_groups() -> Sequence[Any]:
    """Return what Polygraphy's command line gets."""
    from polygraphy.tools.args.base import BaseRunnerArgs
    from polygraphy.tools.args.model import ModelArgs
    from polygraphy.tools.script import make_invocable

    class MmdeployRunnerArgs(BaseRunnerArgs):  # type: ignore[misc] # Polygraphy is not typed
        """mmdeploy: engines of mmdeploy, as they are served.

        Depends on:

            - ModelArgs
        """

        def get_name_opt_impl(self) -> tuple[str, str]:
            return "an engine of mmdeploy", "mmdeploy"

        def add_parser_args_impl(self) -> None:
            self.group.add_argument(
                "--mmdeploy-engine",
                help="The engine's section of a recipe, in JSON.",
                default='{"method": "onnxruntime"}',
            )

        def parse_impl(self, args: Any) -> None:
            self.section = args.mmdeploy_engine

        def add_to_script_impl(self, script: Any) -> None:
            script.add_import(imports=["engine_runner"], frm="mmdeploy.debugging.polygraphy_runner")
            script.add_runner(make_invocable("engine_runner", self.arg_groups[ModelArgs].path, self.section))

    return [MmdeployRunnerArgs()]


def engine_runner(path: str, section: str) -> Any:
    """Return a runner of Polygraphy over one of mmdeploy's engines, built from a graph when it is activated.

    Args:
        path: An ONNX graph.
        section: The engine's section of a recipe, in JSON.

    Raises:
        UsageError: If there is no such engine.
    """
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    method = str(json.loads(section).get("method"))
    if method not in engines.METHODS:
        raise UsageError(f"no engine is called {method!r}; {did_you_mean(method, engines.METHODS)}")
    module = engines.METHODS[method]
    options = module.Options.model_validate_json(section)
    graph = Path(path)
    inputs, outputs = specs(open_session(graph, {"intra_op_thread_count": "1"}, graph_level="2"))

    class EngineRunner(BaseRunner):  # type: ignore[misc] # Polygraphy is not typed
        """Runs a graph on an engine."""

        def activate_impl(self) -> None:
            self._folder = hold_folder("debug")
            self._runner: Any = None

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for spec in inputs:
                metadata.add(spec.name, dtype=spec.numpy_dtype, shape=(-1, *spec.shape))
            return metadata

        def infer_impl(self, feed_dict: Mapping[str, Array]) -> Mapping[str, Array]:
            if self._runner is None:  # engines prove themselves on an example when they are built
                source = Artifact("onnx", graph, file_sha256(graph), inputs, outputs, "debug")
                context = _context(module.encoding(options), feed_dict, self._folder.path)
                self._runner = module.load(module.run(source, options, context), options)
            answers: Mapping[str, Array] = self._runner.infer(dict(feed_dict))
            return answers

        def deactivate_impl(self) -> None:
            if self._runner is not None:
                self._runner.close()
            self._folder.remove()

    return EngineRunner(name=f"mmdeploy-{method}")


def _context(encoding: Any, feed: Mapping[str, Array], workdir: Path) -> StepContext:
    return StepContext(
        component="graph",
        workdir=workdir,
        target=Target.CPU,
        encoding=encoding,
        max_batch_size=max(len(array) for array in feed.values()),
        seed=0,
        threads=usable_cores(),
        examples=lambda size: {name: array[:size] for name, array in feed.items()},
        settles=False,
    )

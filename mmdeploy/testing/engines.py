"""The contract of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy import engines
from mmdeploy.core import facts
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Encoding, Runner
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.target import Target
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.engines.built_from import BuiltFrom, graph_path
from mmdeploy.testing import steps
from mmdeploy.testing.expectations import expect, options_of, plugged
from mmdeploy.testing.passes import expect_artifact, expect_requirements, expect_tensors

_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
Answers = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def check_engine(found: object, options: Mapping[str, Any]) -> str | None:
    """Take an engine through its life: built, loaded, asked, closed.

    Args:
        found: A module, or a class in one.
        options: What a recipe gives, for full precision.

    Returns:
        Why it was built but not run, where it cannot run on this machine.

    Raises:
        AssertionError: Saying what does not hold.
    """
    method = plugged(found, engines.METHODS)
    given = options_of(method, options)
    expect(method.BACKEND and method.FILENAME, "BACKEND or FILENAME is empty")
    expect(method.encoding(given) in Encoding, "encoding gives no Encoding")
    parameters = method.serving(given)
    strings = all(isinstance(part, str) for pair in parameters.items() for part in pair)
    expect(strings, f"serving gives {dict(parameters)}: parameters of config.pbtxt are strings")
    reason = method.unavailable(given)
    expect(reason is None or reason.strip(), "unavailable gives an empty reason: give None where it can run")
    stand_in = method.STAND_IN
    expect(stand_in is None or (Path(stand_in) / "model.py").is_file(), f"STAND_IN, {stand_in}, has no model.py")
    _expect_candidates(method)
    expect_requirements(method.REQUIRES)
    with temporary_folder("testing") as temporary:
        folder = temporary.resolve()
        source = steps.source(folder / "source", method.CONSUMES, quantized=True)
        before = file_sha256(source.path)
        built = method.run(source, given, steps.context(folder / "work", calibration=None, calibration_batches=0))
        expect_artifact(built, method.PRODUCES, folder / "work")
        expect(built.path.name == method.FILENAME, f"the file is {built.path.name}, and FILENAME is {method.FILENAME}")
        expect(file_sha256(source.path) == before, "it changed what it was given")
        expect_tensors(built)
        again = Artifact.from_json(built.to_json(), folder / "work")
        expect(again.files == built.files, "its files are others after a way through JSON")
        wanted = _wanted(source)
        if facts.find(BuiltFrom, built.metadata) is not None:
            _expect_parity(SessionRunner(open_session(graph_path(built), {})), wanted)
        if reason:
            return str(reason)
        runner = method.load(built, given)
        _expect_parity(runner, wanted)
        runner.close()
        runner.close()
    return None


def _expect_candidates(method: Any) -> None:
    for target in Target:
        variants = method.candidates(target)
        expect(len({repr(one) for one in variants}) == len(variants), f"candidates for {target} holds one twice")
        for variant in variants:
            expect(isinstance(variant.options, method.Options), "a candidate has options of another class")
            takes = method.CONSUMES == "onnx" or variant.graph == "float"
            expect(takes, "a candidate asks for the quantized graph, which an engine of the PyTorch module cannot take")
        first = variants[:1]
        expect(all(one.graph == "float" for one in first), f"the first candidate for {target} is no float graph")


def _wanted(source: Artifact) -> Answers:
    """Return what answers rightly: NumPy for the module, ONNX Runtime for the graph with its Q/DQ pair."""
    return steps.answers if source.format == "torch" else SessionRunner(open_session(source.path, {})).infer


def _expect_parity(runner: Runner, wanted: Answers) -> None:
    for batch in (1, 3):
        feed = steps.examples(batch)
        found, right = runner.infer(feed), wanted(feed)
        expect(set(found) == set(right), f"it answers {sorted(found)}, and must answer {sorted(right)}")
        for name, array in right.items():
            expect(found[name].shape == array.shape, f"{name} has the shape {found[name].shape} for {batch} samples")
            error = float(np.abs(found[name] - array).max())
            close = np.allclose(found[name], array, rtol=_RELATIVE, atol=_ABSOLUTE)
            expect(close, f"{name} differs by up to {error:g} from what it was built from, at full precision")

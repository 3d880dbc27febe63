"""The contract of a pass."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import Encoding
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.recipe.schema import REGISTRIES
from mmdeploy.testing import steps
from mmdeploy.testing.expectations import expect, expect_json, options_of, plugged

_SPLITS = frozenset({"calibration", "training", "validation"})


def check_pass(found: object, section: str, options: Mapping[str, Any]) -> str | None:
    """Take a pass through what every pass must keep.

    It says what it needs, writes only into its own folder, leaves what it was given alone, gives the same bytes again,
    and what it makes has the same tensors and answers with finite numbers.

    Args:
        found: A module, or a class in one.
        section: Where a recipe names it: ``prune``, ``recover``, ``export`` or ``quantize``.
        options: What a recipe gives.

    Returns:
        Why it was not run, where it was not: it asks for training or validation data, which only a recipe has.

    Raises:
        AssertionError: Saying what does not hold.
    """
    registry = REGISTRIES[section]
    method = plugged(found, registry)
    given = options_of(method, options)
    expect_requirements(method.REQUIRES)
    needs = method.data_needs(given)
    expect(needs <= _SPLITS, f"data_needs gives {sorted(needs)}; known are {sorted(_SPLITS)}")
    if needs - {"calibration"}:
        return f"it reads {' and '.join(sorted(needs - {'calibration'}))} data: build a recipe with it"
    with temporary_folder("testing") as temporary:
        folder = temporary.resolve()
        source = steps.source(folder / "source", method.CONSUMES)
        before = _files(folder)
        encoding = Encoding.UINT8_SYMMETRIC
        made = method.run(source, given, steps.context(folder / "first", encoding=encoding))
        expect_artifact(made, method.PRODUCES, folder / "first")
        left = {name: digest for name, digest in _files(folder).items() if not name.startswith("first/")}
        expect(left == before, "it wrote outside of context.workdir, or changed what it was given")
        again = method.run(source, given, steps.context(folder / "second", encoding=encoding))
        expect(again.sha256 == made.sha256, "a second run gave other bytes: draw what is random from context.seed")
        expect_tensors(made)
        _expect_answers(made)
    return None


def expect_requirements(names: tuple[str, ...]) -> None:
    """Ask that REQUIRES names imports."""
    for name in names:
        expect(name.isidentifier(), f"REQUIRES names {name!r}: write what is imported, not the distribution")
        expect(find_spec(name) is not None, f"REQUIRES names {name!r}, which is not installed")


def expect_artifact(made: object, produces: str, workdir: Path) -> None:
    """Ask that what a step gave is an artifact of its format, in its folder, with the digest that it says."""
    expect(isinstance(made, Artifact), f"run gave {type(made).__name__}, and must give an Artifact")
    assert isinstance(made, Artifact)
    expect(made.format == produces, f"the artifact's format is {made.format!r}, and PRODUCES is {produces!r}")
    expect(made.path.parent.resolve() == workdir, f"{made.path} does not lie directly in context.workdir")
    expect(made.path.is_file(), f"{made.path} was not written")
    expect(made.sha256 == file_sha256(made.path), "sha256 is not that of the file")
    expect(made.produced_by, "produced_by is empty")
    expect_json(dict(made.metadata), "metadata")


def expect_tensors(made: Artifact) -> None:
    """Ask that the tensors of the component are still the same."""
    for side, found, wanted in (("inputs", made.inputs, steps.INPUTS), ("outputs", made.outputs, steps.OUTPUTS)):
        told, asked = ({(spec.name, spec.dtype) for spec in specs} for specs in (found, wanted))
        expect(told == asked, f"its {side} are {', '.join(map(str, found))}; wanted {', '.join(map(str, wanted))}")


def _expect_answers(made: Artifact) -> None:
    for batch in (1, 3):
        feed = steps.examples(batch)
        found = _answers(made, feed)
        for name, wanted in steps.answers(feed).items():
            answer = found[name]
            expect(answer.shape == wanted.shape, f"{name} has the shape {answer.shape} for {batch} samples")
            expect(np.isfinite(answer).all(), f"{name} is not finite")


def _answers(made: Artifact, feed: Mapping[str, Array]) -> dict[str, Array]:
    if made.format != "torch":
        return SessionRunner(open_session(made.path, {})).infer(feed)
    import torch

    from mmdeploy.model.torch_component import load_component
    from mmdeploy.model.torch_model import call_module

    given = {name: torch.from_numpy(array) for name, array in feed.items()}
    with torch.inference_mode():
        answered = call_module(load_component(made), given, [spec.name for spec in steps.OUTPUTS], name="component")
    return {name: tensor.numpy() for name, tensor in answered.items()}


def _files(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}

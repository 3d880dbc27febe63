"""Modules exported by the export pass itself, and the contexts of the steps that follow."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from float_graphs import batches_of, context_of

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, Encoding, StepContext
from mmdeploy.core.facts import as_metadata
from mmdeploy.export import onnx_dynamo
from mmdeploy.model.torch_component import ComponentFacts


def export(folder: Path, source: str, module: str, feed: Mapping[str, Array], output: str = "y") -> Artifact:
    """Export a part of the model that ``build()`` in a recipe's Python source gives.

    Args:
        folder: To write into.
        source: The Python source.
        module: Attribute path of the part.
        feed: Samples, from which examples are taken.
        output: Name of its only output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    facts = ComponentFacts("model.py:build", folder, None, module, tuple(feed), (output,))
    artifact = Artifact("torch", folder / "model.py", "", (), (), "recipe", as_metadata(facts))
    return onnx_dynamo.run(artifact, onnx_dynamo.Options(), context_for(folder / "onnx", feed))


def context_for(work: Path, feed: Mapping[str, Array], encoding: Encoding = Encoding.UINT8_ASYMMETRIC) -> StepContext:
    """Return the context of a step whose examples and calibration data are these samples."""

    def examples(batch: int) -> dict[str, Array]:
        return {name: array[:batch] for name, array in feed.items()}

    return replace(context_of(work, batches_of(feed, 8), encoding=encoding), examples=examples)

"""Outputs that padding would change are refused as soon as their lengths are known."""

from pathlib import Path

import pytest

from mmdeploy.building.bucket_lengths import require_cut_back
from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.sizes import Size
from mmdeploy.recipe.loader import load_recipe

RECIPE = load_recipe(Path(__file__).parents[2] / "padded_recipe" / "recipe.yaml")  # frames has buckets, tokens has not


def graph(*sizes: Size | None, format: str = "onnx", output: str = "scores") -> Artifact:
    spec = TensorSpec(output, "FP32", tuple(3 if size is None else -1 for size in sizes), sizes)
    return Artifact(format, Path("model.onnx"), "", (), (spec,), "export")


HALVED = Size("head_scores_0(frames, tokens)", 1, 16)


def test_an_output_behind_a_stride_is_refused_when_its_component_is_exported():
    with pytest.raises(UsageError) as refused:
        require_cut_back(RECIPE, "head", graph(None, HALVED))
    assert refused.value.message == (
        f"{RECIPE.origin.path} sizes.frames.bucket: [8, 32], but the output 'scores' follows 'frames' on axis 1 with "
        "another length, 1 to 16, as behind a stride: it cannot be cut back to its true one where requests are padded"
    )
    assert "pool over it" in refused.value.hint


@pytest.mark.parametrize(
    ("component", "artifact"),
    [
        ("head", graph(None)),
        ("head", graph(Size("frames", 2, 32))),
        ("head", graph(Size("head_scores_0(tokens)", 1, 5))),  # of a size without buckets
        ("head", graph(HALVED, format="torch")),
        ("sound", graph(HALVED, output="embedding")),  # no client sees it
        ("original", graph(HALVED)),
    ],
)
def test_other_outputs_are_not(component, artifact):
    require_cut_back(RECIPE, component, artifact)

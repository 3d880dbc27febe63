"""Label files against the shapes that outputs turn out to have."""

from pathlib import Path

import pytest

from mmdeploy.building.label_counts import require_label_counts
from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.loader import load_recipe


def graph(*shape: int, format: str = "onnx") -> Artifact:
    return Artifact(format, Path("model.onnx"), "", (), (TensorSpec("logits", "FP32", shape),), "export")


def test_another_count_stops_the_build_as_soon_as_the_shape_is_known(sample):
    recipe = load_recipe(sample)
    for artifact in (graph(2), graph(-1), graph(3, format="torch")):
        require_label_counts(recipe, "fusion", artifact)
    for component in ("image_encoder", "original"):  # whose outputs are not the ensemble's
        require_label_counts(recipe, component, graph(3))
    with pytest.raises(UsageError) as refused:
        require_label_counts(recipe, "fusion", graph(3))
    assert refused.value.message == (
        "recipe.yaml outputs.logits.labels: labels.txt has 2 names, but the output has 3 values a sample "
        "(its shape is [3])"
    )

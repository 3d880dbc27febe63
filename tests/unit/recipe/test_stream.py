"""Streams: what `validate` says of one that cannot work, with the way out."""

from pathlib import Path
from typing import Any

import pytest

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe

RECIPE = Path(__file__).parents[2] / "stream_recipe" / "recipe.yaml"


def complaints(*overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        load_recipe(RECIPE, overrides)
    return "\n".join(f"{problem.where} {problem.message}" for problem in refused.value.problems)


def test_a_stream_is_read():
    stream: Any = load_recipe(RECIPE).stream
    assert (stream.over, stream.keep, stream.chunk, stream.max_idle_s) == ("frames", ("memory",), 4, 1.0)


@pytest.mark.parametrize(
    ("override", "place", "told"),
    [
        ("stream.over=frame", "stream.over", "no size is called 'frame'; did you mean 'frames'?"),
        ("stream.keep=[memori]", "stream.keep.0", "no component is called 'memori'; did you mean 'memory'?"),
        ("stream.keep=[memory, memory]", "stream.keep.1", "listed twice"),
        ("stream.chunk=21", "stream.chunk", "accepted: 1 to 19"),
        ("stream.chunk=20", "stream.chunk", "accepted: 1 to 19"),
        ("stream.max_idle_s=0.0000001", "stream.max_idle_s", "0.001"),
        ("sizes.frames={min: 6, max: 10}", "stream.chunk", "lower sizes.frames.min"),
        ("sizes.frames={min: 4, max: 20, multiple_of: 4}", None, ""),
        ("sizes.frames={min: 3, max: 21, multiple_of: 3}", "stream.chunk", "accepted: 3 to 18 in steps of 3"),
        ("stream.kept=[memory]", "stream.kept", "did you mean 'keep'?"),
        ("components.memory.engine={method: openvino}", "components.memory.engine",
         "say engine: {method: onnxruntime}"),
        ("components.memory.engine={method: auto}", "components.memory.engine", "say engines: [onnxruntime]"),
        ("components.memory.serving.dynamic_batching={max_queue_delay_us: 5}",
         "components.memory.serving.dynamic_batching", "take it out"),
        ("components.memory.serving.response_cache=true", "components.memory.serving.response_cache", "take it out"),
        ("components.memory.serving.warmup=true", "components.memory.serving.warmup", "take it out"),
        ("components.memory.serving.guard=graph", "components.memory.serving.guard", "take guard out"),
        ("components.encode.serving.guard=graph", None, ""),
        ("sizes.frames.pad_to=20", "sizes.frames.pad_to", "take it out"),
        ("sizes.frames.bucket=[10, 20]", "sizes.frames.bucket", "take it out"),
        ("layout=single", "layout", "say layout: ensemble"),
        ("layout=auto", "layout", "say layout: ensemble"),
        ("response_cache={ensemble: true}", "response_cache.ensemble", "say false"),
        ("inputs.signal.shape=[7, 4]", "stream.over", "let clients send its frames"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_at_its_place(override, place, told):
    if place is None:
        assert load_recipe(RECIPE, [override]).stream is not None
        return
    found = complaints(override)
    assert any(place in line and told in line for line in found.splitlines()), found


def test_a_state_of_an_input_that_may_be_missing_is_refused():
    found = complaints("inputs.signal.optional=true", "inputs.signal.missing={strategy: zeros}")
    assert "make the input required" in found


def test_no_batch_axis_no_state():
    found = complaints(*(f"components.{name}.serving.max_batch_size=0" for name in ("encode", "memory", "head")))
    assert "components.memory.serving.max_batch_size=0 Triton gives a state to each row of a batch" in found


def test_auto_may_choose_among_what_keeps_states():
    found = complaints("components.memory.engine={method: auto, engines: [onnxruntime], max_seconds: 1}")
    assert "data.validation" in found and "state" not in found

"""Padding to buckets and cutting back: the arithmetic, and the ensemble that has the steps for it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.sizes import Size
from mmdeploy.triton.backends import padding
from mmdeploy.triton.buckets import bucketed
from mmdeploy.triton.config import ServedComponent, ServedEnsemble, ensemble_config
from mmdeploy.triton.options import Serving
from mmdeploy.triton.served_step import ServedStep

TOKENS, FRAMES = Size("tokens", 1, 20), Size("frames", 2, 12, 2)
OPTIONS = {
    "sizes": {
        "tokens": {"buckets": [4, 9, 20], "min": 1, "max": 20, "multiple_of": 1},
        "frames": {"buckets": [6, 12], "min": 2, "max": 12, "multiple_of": 2},
    },
    "axes": {"ids": {"1": "tokens"}, "clip": {"1": "frames", "3": "tokens"}},
    "fill": {"ids": 1, "clip": 0},
}


@given(st.integers(1, 20), st.sampled_from(range(2, 13, 2)), st.integers(1, 3))
def test_what_is_padded_is_cut_back_to_what_it_was(tokens, frames, rows):
    random = np.random.default_rng(tokens)
    feed = {"ids": random.integers(2, 9, (rows, tokens)), "clip": random.normal(size=(rows, frames, 2, tokens))}
    found = padding.padded(feed, OPTIONS)
    ids, clip = found["ids.padded"], found["clip.padded"]
    assert ids.shape[1] == min(bucket for bucket in (4, 9, 20) if bucket >= tokens) == clip.shape[3]
    assert clip.shape[1] == (6 if frames <= 6 else 12)
    assert (ids[:, tokens:] == 1).all() and (clip[:, frames:] == 0).all() and (clip[..., tokens:] == 0).all()
    assert (found["tokens.length"] == tokens).all() and found["frames.length"].tolist() == [[frames]] * rows
    lengths = {"tokens": found["tokens.length"], "frames": found["frames.length"]}
    back = padding.cut({"ids": ids, "clip": clip, **lengths}, OPTIONS["axes"])
    assert all(np.array_equal(back[name], feed[name]) for name in feed)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (((1, 21), (1, 2, 2, 21)), "input 'ids': a length of 21, accepted for 'tokens': 1 to 20"),
        (((1, 3), (1, 5, 2, 3)), "input 'clip': a length of 5, accepted for 'frames': 2 to 12 in steps of 2"),
        (((1, 3), (1, 4, 2, 2)), "input 'clip' is 2 long where 'ids' is 3: both are 'tokens'"),
    ],
)
def test_lengths_that_no_bucket_takes(shapes, told):
    feed = dict(zip(("ids", "clip"), map(np.zeros, shapes), strict=True))
    with pytest.raises(padding.LengthError) as caught:
        padding.padded(feed, OPTIONS)
    assert str(caught.value) == told


def part(name, inputs, outputs, rules=None):
    """A component that reads and writes the ensemble tensors of its specs' names."""
    artifact = Artifact("onnx", Path("model.onnx"), "", tuple(inputs), tuple(outputs), "test")
    wires = [{spec.name: spec.name for spec in side} for side in (inputs, outputs)]
    return ServedComponent(
        name, "onnxruntime", "model.onnx", artifact, *wires, Serving(max_batch_size=4), input_rules=rules or {}
    )


IDS = TensorSpec("ids", "INT64", (-1,), (TOKENS,))
IMAGE, EMBEDDING = TensorSpec("image", "UINT8", (8, 8)), TensorSpec("embedding", "FP32", (4,))
STATES = TensorSpec("states", "FP32", (-1, 4), (TOKENS, None))
SCORES = TensorSpec("scores", "FP32", (3,))


def test_only_what_reads_a_padded_input_is_rewired():
    parts = (
        part("text", [IDS], [STATES], {"ids": {"range": [1, 99]}}),
        part("image", [IMAGE], [EMBEDDING]),
        part("head", [STATES, EMBEDDING], [SCORES]),
    )
    whole = bucketed(ServedEnsemble("e", (IDS, IMAGE), (SCORES, STATES), parts), {"tokens": (4, 20)})
    pad, cut = whole.steps
    assert (pad.name, pad.inputs, pad.options["fill"]) == ("e.pad-tokens", {"ids": "ids"}, {"ids": 1})
    assert pad.outputs == {"ids.padded": "ids.padded", "tokens.length": "tokens.length"}
    assert cut.inputs == {"states": "states.padded", "tokens": "tokens.length"} and cut.outputs == {"states": "states"}
    text, image, head = whole.components
    assert text.inputs == {"ids": "ids.padded"} and text.outputs == {"states": "states.padded"}
    assert (image.inputs, image.outputs) == (parts[1].inputs, parts[1].outputs)
    assert head.inputs == {"states": "states.padded", "embedding": "embedding"}
    written = [
        tensor for step in ensemble_config(whole).ensemble_scheduling.step for tensor in step.output_map.values()
    ]
    assert sorted(written) == ["embedding", "ids.padded", "scores", "states", "states.padded", "tokens.length"]


def test_no_true_length_goes_along_where_nothing_is_cut():
    whole = bucketed(ServedEnsemble("e", (IDS,), (SCORES,), (part("text", [IDS], [SCORES]),)), {"tokens": (20,)})
    (pad,) = whole.steps
    assert pad.outputs == {"ids.padded": "ids.padded"}


def test_sizes_that_share_an_input_are_padded_by_one_step():
    clip = TensorSpec("clip", "FP32", (-1, 2, -1), (FRAMES, None, TOKENS))
    sound = TensorSpec("sound", "FP32", (-1,), (Size("samples", 1, 9),))
    inputs = (IDS, clip, sound)
    whole = ServedEnsemble("e", inputs, (SCORES,), (part("all", list(inputs), [SCORES]),))
    steps = bucketed(whole, {"tokens": (20,), "frames": (6, 12), "samples": (9,)}).steps
    assert {step.name: set(step.inputs) for step in steps} == {
        "e.pad-tokens-frames": {"ids", "clip"}, "e.pad-samples": {"sound"},
    }  # fmt: skip


@pytest.mark.parametrize("size", [None, Size("(tokens - 1)//2 + 1", 1, 10)])
def test_an_output_whose_length_follows_the_padding_in_another_way_is_refused(size):
    halved = TensorSpec("halved", "FP32", (-1,), (size,))
    whole = ServedEnsemble("e", (IDS,), (halved,), (part("text", [IDS], [halved]),))
    with pytest.raises(UsageError, match=r"the output 'halved' (has|follows) .* on axis 0") as caught:
        bucketed(whole, {"tokens": (20,)})
    assert "pool over it in the model" in str(caught.value.hint)


def test_an_output_that_does_not_come_from_a_padded_input_is_left_alone():
    sound = TensorSpec("sound", "FP32", (-1,), (Size("samples", 1, 9),))
    loud = TensorSpec("loud", "FP32", (-1,))
    parts = (part("text", [IDS], [SCORES]), part("ear", [sound], [loud]))
    whole = bucketed(ServedEnsemble("e", (IDS, sound), (SCORES, loud), parts), {"tokens": (20,)})
    assert [step.name for step in whole.steps] == ["e.pad-tokens"]


def test_what_a_step_makes_is_padded_and_what_a_step_reads_is_cut():
    text, words = TensorSpec("text", "BYTES", (1,)), TensorSpec("words", "BYTES", (-1,))
    code = Path("model.py")
    before = ServedStep("e.tokenize", code, (text,), (IDS,), {"text": "text"}, {"ids": "ids"})
    after = ServedStep("e.words", code, (STATES,), (words,), {"states": "states"}, {"words": "words"})
    parts = (part("text", [IDS], [STATES]),)
    whole = bucketed(ServedEnsemble("e", (text,), (words,), parts, steps=(before, after)), {"tokens": (4, 20)})
    pad, cut = whole.steps[2:]
    assert whole.steps[:2] == (before, after)
    assert pad.inputs == {"ids": "ids"} and whole.components[0].inputs == {"ids": "ids.padded"}
    assert cut.outputs == {"states": "states"} and whole.components[0].outputs == {"states": "states.padded"}

"""Filling up to one length, and masks that say what is real."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.preprocess import RefusedError, Spec, WiredMethod

OPTIONS = {
    "sizes": {
        "tokens": {"min": 1, "max": 12, "multiple_of": 1, "pad_to": 14},
        "frames": {"min": 2, "max": 8, "multiple_of": 2, "pad_to": None},
    },
    "axes": {"ids": {"0": "tokens"}, "clip": {"0": "frames", "2": "tokens"}, "sound": {"0": "frames"}},
    "fill": {"ids": 1.0, "clip": 0.0},
    "masks": {"real": ["tokens", "INT64"], "seen": ["frames", "FP32"]},
}
METHOD = WiredMethod.from_json(
    {
        "method": "fill_up", "options": OPTIONS, "inputs": {name: name for name in OPTIONS["axes"]},
        "outputs": {name: name for name in ("ids.padded", "clip.padded", "real", "seen")},
    }
)  # fmt: skip


def sample(tokens, frames):
    return {
        "ids": np.full(tokens, 7), "clip": np.ones((frames, 3, tokens), np.float32),
        "sound": np.ones((frames, 2), np.float32),
    }  # fmt: skip


@given(st.integers(1, 12), st.sampled_from((2, 4, 6, 8)))
def test_what_is_filled_up_begins_with_what_came_and_the_mask_says_where_it_ends(tokens, frames):
    given_specs = {name: Spec("FP32", (-1,) * array.ndim) for name, array in sample(1, 2).items()}
    found, specs = METHOD.sample(sample(tokens, frames)), METHOD.specs(given_specs)
    assert found["ids.padded"].tolist() == [7] * tokens + [1] * (14 - tokens)
    assert found["clip.padded"].shape == (frames, 3, 14)
    assert found["clip.padded"].sum() == frames * 3 * tokens == found["clip.padded"][..., :tokens].sum()
    assert found["real"].tolist() == [1] * tokens + [0] * (14 - tokens) and found["real"].dtype == np.int64
    assert found["seen"].tolist() == [1.0] * frames and found["seen"].dtype == np.float32
    for name, spec in specs.items():
        assert all(said in (-1, size) for said, size in zip(spec.shape, found[name].shape, strict=True))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (sample(13, 2), "a length of 13 (ids), accepted for 'tokens': 1 to 12"),
        (sample(3, 5), "a length of 5 (clip), accepted for 'frames': 2 to 8 in steps of 2"),
        (sample(3, 4) | {"sound": np.ones((2, 2))}, "two lengths (sound 2, clip 4): both are 'frames'"),
    ],
)
def test_lengths_that_are_none_are_refused(values, told):
    with pytest.raises(RefusedError) as caught:
        METHOD.sample(values)
    assert told in str(caught.value)


def test_text_is_not_filled_up():
    with pytest.raises(ValueError, match="'ids' is BYTES"):
        METHOD.specs({"ids": Spec("BYTES", (-1,)), "clip": Spec("FP32", (-1, 3, -1)), "sound": Spec("FP32", (-1, 2))})

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.data.padding import padded


@given(
    have=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    want=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    low=st.integers(-9, 9),
    width=st.integers(0, 5),
)
def test_padding_keeps_what_fits_and_stays_in_the_range(have: list[int], want: list[int], low: int, width: int) -> None:
    array = np.full(have, low + width, np.int32)
    made = padded(array, want[: len(have)], (low, low + width))
    kept = tuple(map(slice, np.minimum(have, want[: len(have)]).tolist()))
    assert made.shape == tuple(want[: len(have)]) and made.dtype == np.int32
    assert (made[kept] == low + width).all()
    assert made.size == 0 or low <= made.min() <= made.max() <= low + width

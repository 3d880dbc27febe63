import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import EngineError
from mmdeploy.core.sizes import Size
from mmdeploy.engines import tensorrt, tensorrt_rtx
from mmdeploy.engines.trt_options import InputProfile, OptimizationProfile, ShapeRange, resolve_profile

IMAGE = TensorSpec("image", "UINT8", (3, 8))
TOKENS = TensorSpec("tokens", "INT64", (-1,))
sizes = st.integers(1, 512)


@given(low=sizes, best=sizes, high=sizes)
def test_shapes_are_taken_exactly_when_they_are_ordered(low: int, best: int, high: int) -> None:
    if low <= best <= high:
        assert ShapeRange(min=(low,), opt=(best,), max=(high,)).opt == (best,)
    else:
        with pytest.raises(ValidationError, match="min <= opt <= max does not hold"):
            ShapeRange(min=(low,), opt=(best,), max=(high,))


@given(served=st.integers(0, 512), best=st.none() | sizes, high=st.none() | sizes)
def test_a_profile_is_ordered_and_covers_what_is_served_or_is_refused(
    served: int, best: int | None, high: int | None
) -> None:
    if best is not None and high is not None and best > high:
        with pytest.raises(ValidationError, match="min_batch <= opt_batch <= max_batch"):
            OptimizationProfile(opt_batch=best, max_batch=high)
        return
    profile = OptimizationProfile(opt_batch=best, max_batch=high)
    if high is not None and high < served:
        with pytest.raises(EngineError, match=f"max_batch is {high}, but .* max_batch_size {served}"):
            resolve_profile(profile, [IMAGE], max_batch_size=served, component="encoder")
        return
    shapes = resolve_profile(profile, [IMAGE], max_batch_size=served, component="encoder")["image"]
    assert shapes.min == (1, 3, 8)
    assert 1 <= shapes.opt[0] <= shapes.max[0]
    assert shapes.max[0] >= max(served, 1)
    assert shapes.opt[1:] == shapes.max[1:] == (3, 8)


def test_the_defaults_are_one_half_and_all_of_the_served_batch() -> None:
    shapes = resolve_profile(OptimizationProfile(), [IMAGE], max_batch_size=32, component="encoder")["image"]
    assert (shapes.min[0], shapes.opt[0], shapes.max[0]) == (1, 16, 32)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"tokens: INT64 \[-1\] has sizes that vary"),
        ({"token": {"min": [1], "opt": [8], "max": [9]}}, "names 'token'; the inputs are tokens"),
        ({"tokens": {"min": [1, 1], "opt": [8, 1], "max": [9, 1]}}, r"tokens.min is \[1, 1\]"),
    ],
)
def test_varying_sizes_need_a_range_that_fits(shapes: dict[str, object], message: str) -> None:
    profile = OptimizationProfile.model_validate({"shapes": shapes})
    with pytest.raises(EngineError, match=message):
        resolve_profile(profile, [TOKENS], max_batch_size=4, component="text_encoder")


def test_a_fixed_size_cannot_be_given_another() -> None:
    profile = OptimizationProfile.model_validate({"shapes": {"image": {"min": [3, 8], "opt": [3, 8], "max": [3, 9]}}})
    with pytest.raises(EngineError, match=r"image.max is \[3, 9\]; the input is image: UINT8 \[3, 8\]"):
        resolve_profile(profile, [IMAGE], max_batch_size=4, component="encoder")


def test_triton_may_always_ask_a_batch_of_one() -> None:
    with pytest.raises(EngineError, match="min_batch is 2"):
        resolve_profile(OptimizationProfile(min_batch=2), [IMAGE], max_batch_size=4, component="encoder")


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        (tensorrt.Options, {"precision": "int8"}),
        (tensorrt.Options, {"compute_capabilities": ["SM89"]}),
        (tensorrt.Options, {"hardware_compatibility": "hopper"}),
        (tensorrt.Options, {"workspace_bytes": 10}),
        (tensorrt_rtx.Options, {"compute_capabilities": ["SM90"]}),
        (tensorrt_rtx.Options, {"compute_capabilities": []}),
        (tensorrt_rtx.Options, {"timing_cache": "cache"}),
        (tensorrt_rtx.Options, {"version_compatible": True}),
    ],
)
def test_options_refuse(options: type[tensorrt.Options], bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        options.model_validate(bad)


def test_a_profile_is_that_of_the_sizes_tuned_for_what_is_usual() -> None:
    words = TensorSpec("words", "FP32", (-1, 16), (Size("tokens", 1, 77), None))
    shapes = resolve_profile(
        OptimizationProfile(), [words], max_batch_size=4, component="text_encoder", typical={"words": (12, 16)}
    )
    assert shapes["words"] == InputProfile((1, 1, 16), (2, 12, 16), (4, 77, 16))


def test_a_profile_that_leaves_lengths_of_the_recipe_out_is_refused() -> None:
    words = TensorSpec("words", "FP32", (-1,), (Size("tokens", 1, 77),))
    profile = OptimizationProfile.model_validate({"shapes": {"words": {"min": [1], "opt": [8], "max": [64]}}})
    with pytest.raises(EngineError, match=r"words is \[1\] to \[64\], and the recipe's sizes allow \[1\] to \[77\]"):
        resolve_profile(profile, [words], max_batch_size=4, component="text_encoder")

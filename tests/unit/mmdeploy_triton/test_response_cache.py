"""What is cached is told apart, sized and kept apart from other releases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import artifact, three_components

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.sizes import Size
from mmdeploy.triton.config import ServedComponent, ServedEnsemble, ensemble_config
from mmdeploy.triton.options import ResponseCache, Serving
from mmdeploy.triton.probe import varied
from mmdeploy.triton.repository import stage
from mmdeploy.triton.response_cache import (
    DEFAULT_BYTES,
    answer_bytes,
    cached,
    confusable,
    entry_bytes,
    settings_of,
    with_versions,
)
from mmdeploy.triton.served_step import ServedStep


def versions(ensemble: ServedEnsemble) -> dict[str, int]:
    return {part.name: part.version for part in ensemble.components} | {ensemble.name: ensemble.version}


@pytest.mark.parametrize(
    ("inputs", "batches", "confused"),
    [
        ({"x": (8, 8)}, True, None),
        ({"x": (-1,)}, False, None),
        ({"x": (-1,)}, True, "x"),  # [2, 4] and [1, 8]
        ({"x": (-1, -1)}, False, "x"),
        ({"x": (-1, 4), "fixed": (3,)}, True, None),  # the fixed input tells the batch
        ({"x": (-1, -1), "fixed": (3,)}, True, "x"),
        ({"x": ("n", "n")}, False, None),  # n * n tells n
        ({"x": ("n", "m"), "of_n": ("n",)}, False, None),
        ({"x": ("n", "m"), "y": ("m", "k"), "k": ("k",)}, False, None),
        ({"ids": ("tokens",), "mask": ("tokens",)}, True, "ids"),
    ],
)
def test_requests_of_other_shapes_with_the_same_bytes_are_found(inputs, batches, confused):
    assert confusable(inputs, batches=batches) == confused


@given(
    st.dictionaries(
        st.sampled_from("xyz"), st.lists(st.sampled_from([1, 2, 3, "n", "m"]), max_size=3).map(tuple), min_size=1
    ),
    st.booleans(),
    st.data(),
)
def test_what_is_not_confusable_has_one_shape_for_its_numbers_of_values(inputs, batches, data):
    if confusable(inputs, batches=batches):
        return
    sizes = st.fixed_dictionaries({name: st.integers(1, 6) for name in ("n", "m", "batch")})
    one, other = data.draw(sizes), data.draw(sizes)

    def shapes(given_sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        lead = (given_sizes["batch"],) if batches else (1,)
        return {
            name: (*lead, *(given_sizes[axis] if isinstance(axis, str) else axis for axis in shape))
            for name, shape in inputs.items()
        }

    def counts(found: dict[str, tuple[int, ...]]) -> dict[str, int]:
        return {name: int(np.prod(shape)) for name, shape in found.items()}

    assert counts(shapes(one)) != counts(shapes(other)) or shapes(one) == shapes(other)


def test_what_may_be_left_out_tells_nothing():
    inputs = {"image": (8, 8), "audio": ("samples",)}
    assert confusable(inputs, batches=True) is None
    assert confusable(inputs, batches=True, optional=["image"]) == "audio"
    assert confusable(inputs, batches=True, optional=["audio"]) is None
    assert confusable(inputs, batches=True, optional=["audio", "image"]) == "audio"
    assert confusable(inputs, batches=False, optional=["audio", "image"]) is None


def test_an_answer_takes_its_bytes_and_headers_in_blocks_of_sixteen():
    assert [entry_bytes([("y", "FP32", (batch, 4))]) for batch in (1, 2, 3, 4, 8)] == [80, 96, 112, 128, 192]
    assert answer_bytes([TensorSpec("y", "FP32", (4,))], 2) == 96
    assert answer_bytes([TensorSpec("y", "FP32", ())], 1) == entry_bytes([("y", "FP32", (1, 1))])
    assert answer_bytes([TensorSpec("y", "FP32", (-1,))], 1) is None


def test_only_what_is_cached_has_a_version_made_of_its_content(tmp_path: Path):
    ensemble = three_components(tmp_path)
    made = with_versions(ensemble)
    assert versions(made) == versions(with_versions(ensemble))
    assert versions(made)["audio_encoder"] == 1
    assert 1 < versions(made)["image_encoder"] < 2**53
    steps = {step.model_name: step.model_version for step in ensemble_config(made).ensemble_scheduling.step}
    assert steps == {name: version for name, version in versions(made).items() if name != ensemble.name}
    plain = replace(
        ensemble,
        response_cache=False,
        components=tuple(replace(part, serving=Serving()) for part in ensemble.components),
    )
    assert with_versions(plain) is plain


def test_other_weights_or_another_configuration_are_another_version(tmp_path: Path):
    ensemble = three_components(tmp_path)
    before = versions(with_versions(ensemble))
    image, audio, fusion = ensemble.components
    image.artifact.path.write_bytes(b"other weights")
    weights = versions(with_versions(ensemble))
    assert weights["image_encoder"] != before["image_encoder"]
    assert weights["spoken_digits"] != before["spoken_digits"]
    ruled = replace(ensemble, components=(replace(image, input_rules={"pixels": {"range": [0, 9]}}), audio, fusion))
    assert versions(with_versions(ruled))["image_encoder"] != weights["image_encoder"]
    audio.artifact.path.write_bytes(b"others, of what is not cached")
    again = versions(with_versions(ensemble))
    assert again["image_encoder"] == weights["image_encoder"]
    assert again["spoken_digits"] != weights["spoken_digits"]


def test_the_ensembles_version_knows_its_steps_and_how_the_parts_of_a_branch_are_wired(tmp_path: Path):
    plain = three_components(tmp_path)
    image, audio, _ = plain.components
    for name in ("step.py", "beside.py"):
        (tmp_path / name).write_text("CODE = 1\n", encoding="utf-8")
    step = ServedStep(
        "scale", tmp_path / "step.py", (TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", (4,)),),
        {"x": "image"}, {"y": "scaled"}, options={"by": 2}, beside={"beside.py": tmp_path / "beside.py"},
    )  # fmt: skip
    branch = ServedEnsemble("branch", plain.inputs, (), (image, audio))
    made = replace(plain, steps=(step,), branches=(branch,))
    rewired = replace(image, inputs=dict.fromkeys(image.inputs, "another tensor"))
    found = {"as it is": with_versions(made).version, "again": with_versions(made).version}
    assert len({*found.values()}) == 1
    found["options"] = with_versions(replace(made, steps=(replace(step, options={"by": 3}),))).version
    found["packages"] = with_versions(replace(made, steps=(replace(step, requires=("pillow==1",)),))).version
    found["branch"] = with_versions(replace(made, branches=(replace(branch, components=(rewired, audio)),))).version
    (tmp_path / "beside.py").write_text("CODE = 2\n", encoding="utf-8")
    found["what lies beside it"] = with_versions(made).version
    (tmp_path / "step.py").write_text("CODE = 2\n", encoding="utf-8")
    found["code"] = with_versions(made).version
    found.pop("again")
    assert len({*found.values()}) == len(found), found


def test_the_recipes_section_reaches_the_staged_repository(tmp_path: Path):
    ensemble = replace(three_components(tmp_path / "parts"), response_cache=False)
    stage(tmp_path / "sized", cached(ensemble, ResponseCache(size_mib=3, ensemble=True)))
    settings = settings_of([tmp_path / "sized"])
    assert settings.models == ("image_encoder", "spoken_digits")
    assert settings.option == f"--cache-config=local,size={3 * 2**20}"
    stage(tmp_path / "unsized", cached(ensemble, None))
    assert settings_of([tmp_path / "unsized"]).bytes == DEFAULT_BYTES
    assert settings_of([tmp_path / "sized", tmp_path / "unsized"]).bytes == DEFAULT_BYTES + 3 * 2**20


def test_a_repository_that_caches_nothing_asks_for_no_cache(tmp_path: Path):
    model = tmp_path / "plain"
    model.mkdir()
    (model / "config.pbtxt").write_text('name: "plain"')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("response_cache {")
    assert settings_of([tmp_path]).bytes == 0


def test_a_component_whose_requests_would_be_mixed_up_is_not_staged(tmp_path: Path):
    texts = artifact(tmp_path, "texts", (TensorSpec("ids", "INT64", (-1,)),), (TensorSpec("y", "FP32", (4,)),))
    serving = Serving(max_batch_size=8, response_cache=True)
    part = ServedComponent("texts", "onnxruntime", "model.onnx", texts, {"ids": "ids"}, {"y": "y"}, serving)
    ensemble = ServedEnsemble("one", texts.inputs, texts.outputs, (part,))
    with pytest.raises(UsageError, match=r"texts: serving.response_cache: .* the bytes of 'ids'"):
        cached(ensemble, None)
    tokens = Size("tokens", 1, 77)
    beside = tuple(TensorSpec(name, "INT64", (-1, -1), (tokens, tokens)) for name in ("ids", "more"))
    square = replace(
        part, artifact=replace(texts, inputs=beside), serving=Serving(max_batch_size=1, response_cache=True)
    )
    assert cached(replace(ensemble, components=(square,)), None).components[0].version > 1  # tokens * tokens tells it
    alone = replace(part, serving=Serving(max_batch_size=1, response_cache=True))
    assert cached(replace(ensemble, components=(alone,)), None).components[0].version > 1


@given(st.integers(0, 2**32), st.sampled_from(["float16", "float32", "float64"]))
def test_a_probe_of_a_cached_model_varies_and_keeps_to_the_range(seed, dtype):
    random = np.random.default_rng(seed)
    feed = {"x": random.uniform(0, 1, (1, 16)).astype(dtype), "ids": random.integers(0, 9, (1, 5))}
    feed["x"][0, :2] = 0, 1
    moved = varied(feed, {"x": (0.0, 1.0)})
    assert moved["x"].dtype == feed["x"].dtype
    assert not np.array_equal(moved["x"], feed["x"])
    assert moved["x"].min() >= 0
    assert moved["x"].max() <= 1
    np.testing.assert_allclose(moved["x"], feed["x"], rtol=0.01, atol=1e-5)
    np.testing.assert_array_equal(moved["ids"], feed["ids"])
    whole = {"ids": np.arange(40).reshape(1, 40)}
    assert not np.array_equal(varied(whole, {})["ids"], whole["ids"])
    assert set(varied(whole, {})["ids"].flat) == set(range(40))

"""Limits that never fail or never pass, ranges and sizes that do not exist: refused or doubted, by place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.plausible import doubts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sample_files(tmp_path)
    return tmp_path


def load(folder: Path, *overrides: str, text: str = SAMPLE):
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", overrides)


def gates(*sections: object) -> str:
    return f"gates={json.dumps(sections)}"


def refusal(folder: Path, *overrides: str, text: str = SAMPLE) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, *overrides, text=text)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("dtype", "span", "told"),
    [
        ("FP32", "[10, -10]", "the lowest value, 10, is above the highest, -10: did you mean [-10, 10]?"),
        ("UINT8", "[300, 400]", "no UINT8 lies in [300, 400]: its values are 0 to 255"),
        ("INT8", "[-400, -300]", "its values are -128 to 127"),
        ("INT64", "[0.2, 0.8]", "no INT64, a whole number, lies in [0.2, 0.8]"),
        ("BOOL", "[2, 3]", "no BOOL lies in [2, 3]"),
    ],
)
def test_a_range_without_values_is_refused_with_its_line(folder, dtype, span, told):
    text = SAMPLE.replace("{dtype: FP32, shape: [4000]}", f"{{dtype: {dtype}, shape: [4000], range: {span}}}")
    problem = refusal(folder, text=text)
    assert "recipe.yaml:12 inputs.audio.range" in problem
    assert told in problem


@given(st.integers(-300, 300), st.integers(0, 300), st.sampled_from(["INT8", "UINT8", "INT32", "FP32", "FP16"]))
def test_a_range_is_refused_only_if_it_holds_no_value(low, more, dtype):
    from mmdeploy.recipe.plausible import _range_problem
    from mmdeploy.recipe.schema import InputSpec

    bounds = {"INT8": (-128, 127), "UINT8": (0, 255)}.get(dtype, (-1000, 1000))
    holds = any(bounds[0] <= value <= bounds[1] for value in range(low, low + more + 1))
    assert bool(_range_problem(InputSpec(dtype=dtype, shape=(1,), range=(low, low + more)))) != holds


@pytest.mark.parametrize(
    ("gate", "place", "told"),
    [
        ({"method": "accuracy", "metric": "top1", "max_drop": 5}, "max_drop", "can never fail: top1 lies between 0"),
        ({"method": "accuracy", "metric": "top1", "max_drop": 5}, "max_drop", "5 % are 0.05"),
        ({"method": "accuracy", "metric": "auroc", "max_relative_drop": 1.5}, "max_relative_drop", "can never fail"),
        ({"method": "accuracy", "metric": "top1", "min": 96}, "min", "can never pass: top1 lies between 0 and 1"),
        ({"method": "accuracy", "metric": "mse", "max": -0.1}, "max", "can never pass: mse is 0 or more"),
        ({"method": "parity", "min_sqnr_db": 500}, "min_sqnr_db", "can never pass"),
        ({"method": "latency", "max_ratio_to_reference": 1, "batch": 9}, "batch", "takes batches of up to 8, not of 9"),
        ({"method": "memory", "max_bytes": 10**9, "batch": 16}, "batch", "can never pass"),
    ],
)
def test_a_limit_that_nothing_or_everything_keeps_is_refused(folder, gate, place, told):
    problem = refusal(folder, gates({"method": "parity", "min_cosine": 0.9}, gate))
    assert f"gates.1.{place}" in problem
    assert told in problem


@pytest.mark.parametrize(
    "gate",
    [
        {"method": "accuracy", "metric": "mse", "max_drop": 5, "max": 96},
        {"method": "accuracy", "metric": "wer", "max_drop": 2.0},
        {"method": "accuracy", "metric": "top1", "min": 1.0, "max_drop": 0.0},
        {"method": "parity", "min_cosine": 0.99, "min_sqnr_db": 20},
        {"method": "latency", "max_ratio_to_reference": 1.0, "batch": 8},
    ],
)
def test_limits_that_can_decide_are_neither_refused_nor_doubted(folder, gate):
    assert doubts(load(folder, gates(gate))) == []


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"method": "parity", "min_cosine": -1}, "gates.0.min_cosine: can never fail"),
        ({"method": "parity", "min_sqnr_db": 0}, "gates.0.min_sqnr_db: 0 dB: an answer of zeros passes"),
        ({"method": "parity", "min_sqnr_db": -1000}, "gates.0.min_sqnr_db: can never fail"),
        ({"method": "parity", "min_exact_match": 0}, "gates.0.min_exact_match: can never fail"),
        ({"method": "parity", "min_overlap_at_k": 0, "k": 1}, "gates.0.min_overlap_at_k: can never fail"),
        ({"method": "parity", "min_cosine": 0.9, "samples": 1}, "gates.0.samples: one sample"),
        ({"method": "accuracy", "metric": "top1", "min": 0}, "gates.0.min: can never fail"),
        ({"method": "accuracy", "metric": "top1", "max_drop": 1}, "gates.0.max_drop: can never fail"),
        ({"method": "size", "max_ratio_to_reference": 35}, "gates.0.max_ratio_to_reference: 35 is 35 times"),
        ({"method": "throughput", "min_ratio_to_reference": 0.1}, "gates.0.min_ratio_to_reference: a candidate 10"),
        ({"method": "memory", "max_bytes": 512}, "gates.0.max_bytes: 512 bytes"),
    ],
)
def test_a_limit_that_proves_little_is_doubted(folder, gate, told):
    (doubt,) = doubts(load(folder, gates(gate)))
    assert doubt.startswith(told)


def test_samples_that_prove_little_are_doubted(folder):
    same = load(folder, "data.calibration=data.py:evaluation", "components.image_encoder.quantize.samples=1")
    few, shared = doubts(same)
    assert few.startswith("components.image_encoder.quantize.samples: ranges from one sample")
    assert shared.startswith("data.calibration: 'data.py:evaluation' is what the gates judge on too")


def test_answers_that_depend_on_their_company_are_doubted(folder):
    dynamic, grouped = "components.image_encoder.quantize={method: dynamic}", "dynamic_batching={}"
    (doubt,) = doubts(load(folder, dynamic, f"components.image_encoder.serving.{grouped}"))
    assert doubt.startswith("components.image_encoder.quantize: dynamic takes one range for a whole batch")
    assert doubts(load(folder, dynamic, "components.image_encoder.serving={}")) == []


def test_a_request_beyond_what_can_be_sent_is_refused(folder):
    problem = refusal(folder, text=SAMPLE.replace("shape: [4000]", "shape: [80000000]"))
    assert "recipe.yaml:12 inputs.audio.shape" in problem
    assert "a request of 8 samples holds 2.38 GiB of inputs" in problem
    assert "at most 6 fit: set serving.max_batch_size" in problem
    problem = refusal(folder, text=SAMPLE.replace("shape: [4000]", "shape: [1000000, 1000000]"))
    assert "at most" not in problem
    batches = [f"components.{name}.serving.max_batch_size=3000000000" for name in ("image_encoder", "audio_encoder")]
    assert "less than 2 GiB" in refusal(folder, *batches, "components.fusion.serving={max_batch_size: 3000000000}")

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.errors import ServerError
from mmdeploy.triton import server
from mmdeploy.triton.probe import declared_ranges, probe_inputs


def config(*tensors, rules=None, **more):
    parameters = {} if rules is None else {"mmdeploy.inputs": {"string_value": json.dumps(rules)}}
    inputs = [{"name": name, "data_type": f"TYPE_{dtype}", "dims": dims} for name, dtype, dims in tensors]
    return {"input": inputs, "max_batch_size": 4, "parameters": parameters, **more}


@given(
    dtype=st.sampled_from(sorted(NUMPY_BY_DTYPE)),
    dims=st.lists(st.integers(1, 5) | st.just(-1), max_size=4),
    batches=st.booleans(),
)
def test_inputs_have_the_declared_type_and_a_shape_that_fits(dtype, dims, batches):
    array = probe_inputs(config(("x", dtype, dims), max_batch_size=4 if batches else 0), {}, {})["x"]
    assert array.dtype == NUMPY_BY_DTYPE[dtype]
    shape = array.shape[1:] if batches else array.shape
    assert array.ndim == len(dims) + batches
    assert all(want in (-1, got) for want, got in zip(dims, shape, strict=True))


@given(low=st.integers(-9, 9), width=st.integers(0, 9))
def test_values_are_within_the_declared_range(low, width):
    array = probe_inputs(config(("tokens", "INT64", [3])), {"tokens": (low, low + width)}, {})["tokens"]
    assert low <= array.min() <= array.max() <= low + width


@given(
    dtype=st.sampled_from(sorted(NUMPY_BY_DTYPE)), shape=st.lists(st.integers(1, 5), max_size=3), batches=st.booleans()
)
def test_a_known_sample_is_asked_as_it_is(dtype, shape, batches):
    sample = np.ones(shape, NUMPY_BY_DTYPE[dtype])
    lead = [] if batches else [-1]
    served = config(("x", dtype, [*lead, *([-1] * len(shape) or [1])]), max_batch_size=4 if batches else 0)
    array = probe_inputs(served, {"x": (5, 9)}, {"x": sample})["x"]
    assert array.dtype == sample.dtype and array.shape == (1, *(shape or [1]))
    assert (array == 1).all()


def test_an_ensemble_keeps_to_the_ranges_of_its_steps():
    rules = {"tokens": {"range": [1, 49]}, "wave": {"finite": True}}
    steps = [{"model_name": "text", "input_map": {"tokens": "ids", "wave": "sound"}}, {"model_name": "absent"}]
    configs = {
        "text": config(("tokens", "INT64", [3]), ("wave", "FP32", [2]), rules=rules),
        "both": config(("ids", "INT64", [3]), ensemble_scheduling={"step": steps}),
    }
    assert declared_ranges("both", configs) == {"ids": (1, 49)}
    assert declared_ranges("text", configs) == {"tokens": (1, 49)}


def test_sizes_that_vary_are_taken_from_the_warm_up():
    warmup = [{"name": "one", "inputs": {"x": {"dims": ["2", "4000"]}}}]
    array = probe_inputs(config(("x", "FP32", ["2", "-1"]), model_warmup=warmup), {}, {})["x"]
    assert array.shape == (1, 2, 4000)
    assert np.isfinite(array).all()


@pytest.mark.parametrize(
    "unaskable",
    [
        config(("x", "STRING", [1])),
        config(("x", "FP32", [1]), sequence_batching={}),
        config(("x", "FP32", [1]), model_transaction_policy={"decoupled": True}),
    ],
)
def test_models_that_cannot_be_asked_for_one_answer_are_left_out(unaskable):
    assert probe_inputs(unaskable, {}, {}) is None


def test_a_file_that_a_step_does_not_find_is_one_that_the_recipe_does_not_name(monkeypatch):
    reason = "FileNotFoundError: [Errno 2] No such file or directory: 'm.words/1/words.txt'"
    monkeypatch.setattr(server, "probe_models", lambda *_, **__: {"m.words": reason})
    with pytest.raises(ServerError, match=r"m\.words: FileNotFoundError") as caught:
        server.Server("127.0.0.1:1", "http://127.0.0.1:2").probe()
    assert caught.value.hint is not None and "list what its code reads in files" in caught.value.hint

"""Requests that lie beside a release: made of real samples, in the form that Triton takes."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from recorded_sets import set_artifact

from mmdeploy.building.sample_request import write_sample_request
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.recipe.loader import load_recipe

DATA = """
import numpy as np

def samples():
    for index in range(10):
        yield {"image": np.full((8, 8), index + 1, np.uint8), "audio": np.linspace(0, index + 1, 4000, dtype=np.DTYPE)}

calibration = evaluation = samples
"""


@pytest.fixture
def written(edited, tmp_path):
    def write(dtype: str, numpy: str, key: str = "evaluation", **more: str) -> dict[str, Path]:
        changes = [("audio: {dtype: FP32", f"audio: {{dtype: {dtype}"), *more.items()]
        (tmp_path / "data.py").write_text(DATA.replace("DTYPE", numpy))
        recipe = load_recipe(edited(*changes))
        recorded = {DATA_SETS[key]: set_artifact(recipe, key, tmp_path / "sets")}
        return write_sample_request(tmp_path, recipe, recorded)

    return write


@pytest.mark.parametrize("key", ["evaluation", "calibration"])
def test_a_request_in_json_holds_the_first_sample(written, key, tmp_path):
    files = written("FP32", "float32", key)
    assert set(files) == {"sample_request.json", "sample_request.headers", "perf_analyzer.json"}
    assert {file.parent for file in files.values()} == {tmp_path}, "a recorded set is sealed"
    image, audio = json.loads(files["sample_request.json"].read_text())["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [1, 8, 8])
    assert image["data"] == [1] * 64
    assert (audio["shape"], audio["data"][-1]) == ([1, 4000], 1.0)
    assert files["sample_request.headers"].read_text() == "Content-Type: application/json\n"


def test_fp16_goes_as_bytes_behind_a_header_whose_size_is_told(written):
    files = written("FP16", "float16")
    assert set(files) == {"sample_request.bin", "sample_request.headers", "perf_analyzer.json"}
    headers = dict(line.split(": ") for line in files["sample_request.headers"].read_text().splitlines())
    size, body = int(headers["Inference-Header-Content-Length"]), files["sample_request.bin"].read_bytes()
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in json.loads(body[:size])["inputs"]]
    assert sizes == [64, 8000]
    np.testing.assert_array_equal(
        np.frombuffer(body[size + 64 :], np.float16), np.linspace(0, 1, 4000, dtype=np.float16)
    )


def test_perf_analyzer_gets_several_samples_without_the_batch(written):
    rows = json.loads(written("FP32", "float32")["perf_analyzer.json"].read_text())["data"]
    assert [row["image"]["shape"] for row in rows] == [[8, 8]] * 8
    assert [base64.b64decode(row["image"]["b64"])[0] for row in rows] == list(range(1, 9))


def test_a_model_that_does_not_batch_takes_the_batch_as_an_axis(written):
    more = {
        "max_batch_size: 8": "max_batch_size: 0",
        "max_batch_size: 16": "max_batch_size: 0",
        "outputs: {logits: logits}": "outputs: {logits: logits}\n    serving: {max_batch_size: 0}",
    }
    rows = json.loads(written("FP32", "float32", **more)["perf_analyzer.json"].read_text())["data"]
    assert rows[0]["audio"]["shape"] == [1, 4000]


def test_a_build_without_samples_has_no_request(sample, tmp_path):
    assert write_sample_request(tmp_path, load_recipe(sample), {}) == {}

import base64
import json

import numpy as np
import pytest
from slow_server import in_turn, slow_server

from mmdeploy.core.errors import UsageError
from mmdeploy.performance.samples import MOST_SAMPLES, find, holds_samples
from mmdeploy.performance.target import open_target


@pytest.fixture(scope="module")
def target():
    with slow_server(in_turn(0.0)) as served:
        yield open_target(served.url)


def test_samples_of_a_release_are_those_for_perf_analyzer(target, tmp_path):
    rows = [np.array([number, 2], np.float32) for number in range(3)]
    data = [{"x": {"b64": base64.b64encode(row.tobytes()).decode(), "shape": [2]}} for row in rows]
    (tmp_path / "perf_analyzer.json").write_text(json.dumps({"data": data}))
    asked = find(target, release=tmp_path)
    assert asked.samples == 3
    assert [feed["x"].tolist() for feed in asked.feeds] == [[row.tolist()] for row in rows]


def test_a_release_without_those_has_the_sample_that_probes_ask(target, tmp_path):
    np.savez(tmp_path / "samples.npz", **{"slow/x": np.array([5, 6], np.float32)})
    asked = find(target, release=tmp_path)
    assert (asked.samples, asked.feeds[0]["x"].tolist()) == (1, [[5, 6]])


def test_a_component_is_asked_its_own_sample_where_the_others_are_the_ensembles(target, tmp_path):
    (tmp_path / "perf_analyzer.json").write_text(json.dumps({"data": [{"image": [1]}]}))
    with pytest.raises(UsageError, match="no input 'image'"):
        find(target, release=tmp_path)
    np.savez(tmp_path / "samples.npz", **{"slow/x": np.array([5, 6], np.float32)})
    assert find(target, release=tmp_path).feeds[0]["x"].tolist() == [[5, 6]]


def test_a_folder_without_samples_is_no_release(target, tmp_path):
    assert not holds_samples(tmp_path)
    with pytest.raises(UsageError, match="has no sample of slow beside it"):
        find(target, release=tmp_path)
    assert find(target).source == "made-up values"


def test_requests_hold_a_batch_of_samples_and_each_sample_is_in_one(target, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    feeds = find(target, data=tmp_path, batch=2).feeds
    assert {feed["x"].shape for feed in feeds} == {(2, 2)}
    assert {row[0] for feed in feeds for row in feed["x"].tolist()} == {0, 2, 4, 6, 8}


def test_lists_of_numbers_are_read_as_perf_analyzer_reads_them(target, tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({"data": [{"x": [1, 2]}, {"x": {"content": [3, 4], "shape": [2]}}]}))
    asked = find(target, data=tmp_path / "own.json")
    assert [feed["x"].tolist() for feed in asked.feeds] == [[[1, 2]], [[3, 4]]]
    assert asked.feeds[0]["x"].dtype == np.float32


def test_no_more_samples_are_held_than_differ_usefully(target, tmp_path):
    np.savez(tmp_path / "many.npz", x=np.zeros((MOST_SAMPLES + 9, 2), np.float32))
    assert find(target, data=tmp_path / "many.npz").samples == MOST_SAMPLES


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"{", "holds no samples"),
        ("a.json", b'{"data": [{"z": [1]}]}', "has no input 'z'"),
        ("a.json", b'{"data": [{"x": [1, 2, 3]}]}', "holds no samples"),
        ("a.json", b'{"other": []}', "holds no samples"),
        ("a.npz", b"no zip", "holds no samples"),
    ],
)
def test_what_holds_no_samples_is_one_clear_error(target, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        find(target, data=tmp_path / name)
    assert str(tmp_path / name) in caught.value.message


def test_inputs_of_unlike_numbers_of_samples_are_refused(target, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2), np.float32), y=np.zeros((2, 2), np.float32))
    with pytest.raises(UsageError, match="same number of samples"):
        find(target, data=tmp_path / "a.npz")


def test_a_batch_beyond_the_model_is_refused(target):
    with pytest.raises(UsageError, match="takes at most 4 rows"):
        find(target, batch=5)

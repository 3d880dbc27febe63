"""Recorded sets give back, memory-mapped, what the data callable gave; whatever the shapes and labels."""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.building.sample_notes import sample_notes
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import no_progress
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import plain
from mmdeploy.data.contents import content
from mmdeploy.data.recording import Request, record
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.data.samples import sample_digest

X = TensorSpec("x", "FP32", (3,))
VARYING = (
    TensorSpec("audio", "FP32", (-1,)),
    TensorSpec("patches", "UINT8", (-1, -1)),
    TensorSpec("scale", "FP64", ()),
)


@pytest.fixture
def recorded(tmp_path: Path) -> Any:
    """Records samples that are given as they are, through a data callable that reads them from a list."""

    def make(samples: list[Any], specs: Any = (X,), *, name: str = "set", **options: Any) -> SampleSet:
        (tmp_path / "given.py").write_text("SAMPLES = []\n\n\ndef samples():\n    return iter(SAMPLES)\n")
        from mmdeploy.model.sources import resolve_callable

        resolve_callable("given.py:samples", tmp_path, error=DataError).__globals__["SAMPLES"][:] = samples
        folder = tmp_path / name
        folder.mkdir()
        record(Request("given.py:samples", tmp_path, specs, **options), folder, no_progress)
        return SampleSet.open(folder, "given.py:samples")

    return make


def xs(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"x": np.full(3, number, np.float32)} for number in range(first, first + count)]


def mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base  # type: ignore[assignment]
    return isinstance(array, mmap.mmap)


def test_samples_of_one_shape_are_an_npy_file_that_anybody_can_read(recorded, tmp_path):
    samples = recorded(xs(5))
    index = json.loads((tmp_path / "set" / "samples.json").read_text())
    array = np.load(tmp_path / "set" / index["inputs"]["x"]["file"])
    assert array.shape == (5, 3) and array[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(samples.feeds()["x"], array)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 9), first=st.none() | st.integers(1, 50))
def test_batches_hold_every_sample_once_and_can_be_read_again(tmp_path_factory, count, size, first):
    root = tmp_path_factory.mktemp("batches")
    (root / "data.py").write_text(
        f"import numpy as np\ndef samples(): return ({{'x': np.full(3, i, np.float32)}} for i in range({count}))\n"
    )
    (root / "set").mkdir()
    record(Request("data.py:samples", root, (X,)), root / "set", no_progress)
    samples = SampleSet.open(root / "set", "data.py:samples").first(first)
    assert samples.count == (count if first is None else min(count, first))
    for _ in range(2):
        parts = list(samples.batches(size))
        assert [int(value) for part in parts for value in part["x"][:, 0]] == list(range(samples.count))
        assert all(len(part["x"]) == size for part in parts[:-1])


def test_batches_are_pieces_of_the_file_and_what_is_written_into_them_stays_in_memory(recorded, tmp_path):
    samples = recorded(xs(6))
    batch = samples.batch(2, 4)["x"]
    assert mapped(batch) and mapped(samples.feeds()["x"]) and mapped(samples.values("x"))
    batch += 100
    again = SampleSet.open(tmp_path / "set", "given.py:samples")
    assert again.batch(2, 4)["x"][:, 0].tolist() == [2, 3]


def varying(*sizes: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [
        {
            "audio": random.standard_normal(size).astype(np.float32),
            "patches": random.integers(0, 255, (size, 2 + size % 2)).astype(np.uint8),
            "scale": np.array(float(size)),
        }
        for size in sizes
    ]


def test_samples_of_varying_shapes_are_kept_one_after_the_other(recorded):
    given_samples = varying(3, 3, 5, 0, 7)
    samples = recorded(given_samples, VARYING)
    for index, wanted in enumerate(given_samples):
        batch = samples.batch(index, index + 1)
        assert all(mapped(array) for name, array in batch.items())
        for name, array in wanted.items():
            np.testing.assert_array_equal(batch[name], array[None])
            assert batch[name].dtype == array.dtype
    together = samples.batch(0, 2)
    np.testing.assert_array_equal(together["patches"], np.stack([one["patches"] for one in given_samples[:2]]))
    assert samples.first(2).feeds()["audio"].shape == (2, 3)


def test_samples_of_different_sizes_cannot_share_a_batch(recorded):
    samples = recorded(varying(3, 3, 5), VARYING)
    with pytest.raises(ValueError, match="cannot be in one request: 'audio' is"):
        samples.batch(1, 3)
    assert [batch["audio"].shape for batch in samples.batches(8)] == [(2, 3), (1, 5)]
    assert len(list(samples.batches(1))) == 3


def test_sizes_that_vary_are_in_the_figures(tmp_path):
    (tmp_path / "data.py").write_text(
        "import numpy as np\ndef samples(): return ({'x': np.ones((n, 2), np.float32)} for n in (3, 0, 5))\n"
    )
    (tmp_path / "set").mkdir()
    specs = (TensorSpec("x", "FP32", (-1, 2)),)
    facts = record(Request("data.py:samples", tmp_path, specs), tmp_path / "set", no_progress)
    assert facts["inputs"]["x"] == {"shape": [[0, 5], 2], "minimum": 1.0, "maximum": 1.0, "mean": 1.0}
    assert (facts["samples"], facts["labels"], facts["bytes"]) == (3, None, 8 * 2 * 4)


LABELS = {
    "class ids": [3, 1, 2, 0],
    "vectors": [np.arange(3) + number for number in range(4)],
    "strings": ["a cat", "", "ein Hund", "犬"],
    "references": [["a", "b"], [], ["c"], ["d", "e", "f"]],
    "boxes": [np.full((number, 4), number, np.float32) for number in (1, 0, 3, 2)],
    "several by name": [{"id": number, "text": str(number), "boxes": np.zeros((number, 4))} for number in range(4)],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_labels_of_every_kind_come_back(recorded, labels):
    samples = recorded(list(zip(xs(4), labels, strict=True)))
    wanted = [label["text"] for label in labels] if isinstance(labels[0], dict) else labels
    found = plain(samples.labels)
    found = found["text"] if isinstance(labels[0], dict) else found
    assert len(found) == 4
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert type(samples.first(2).labels) is type(samples.labels)
    assert len(samples.first(2).labels) == 2


def test_the_content_is_that_of_samples_and_labels_and_nothing_else(recorded, tmp_path):
    def content_of(name: str, samples: list[Any], first: int | None = None) -> str:
        if not (tmp_path / name).exists():
            recorded(samples, name=name)
        return content(tmp_path / name, first)

    plain_set = content_of("one", xs(4))
    assert content_of("again", xs(4)) == plain_set == content_of("one", [], 4) == content_of("one", [], 9)
    assert content_of("longer", xs(6)) != plain_set == content_of("longer", [], 4)
    assert content_of("others", xs(4, first=1)) != plain_set
    labelled = content_of("labelled", [(feed, 1) for feed in xs(4)])
    relabelled = content_of("relabelled", [(feed, 2) for feed in xs(4)])
    as_text = content_of("text", [(feed, "1") for feed in xs(4)])
    assert len({plain_set, labelled, relabelled, as_text}) == 4
    assert content(tmp_path / "labelled", 4) == plain_set  # of the inputs alone


def test_samples_of_another_set_are_refused(recorded):
    judged = recorded(xs(4), name="judged")
    for feed in xs(4):
        assert judged.seen.find(sample_digest(feed)) == feed["x"][0]
    assert judged.first(2).seen.find(sample_digest(xs(1, first=3)[0])) is None
    with pytest.raises(DataError, match=r"sample 2 is also sample 0 of given\.py:samples") as caught:
        recorded([*xs(2, first=7), *xs(1)], unlike=(judged.seen,))
    assert "let the splits share none" in caught.value.hint


@pytest.mark.parametrize("labels", [None, "a text that is longer than the input"])
def test_a_set_that_is_too_large_is_refused_before_it_is_whole(recorded, tmp_path, labels):
    samples = xs(1000) if labels is None else [(feed, labels) for feed in xs(50)]
    with pytest.raises(DataError, match=r"gives more than 1e-06 GiB: stopped at sample \d+") as caught:
        recorded(samples, max_gib=1e-6)
    assert "raise data.max_gib" in caught.value.hint
    assert sum(file.stat().st_size for file in (tmp_path / "set").iterdir()) < 10_000


def test_what_needs_labels_is_named_where_there_are_none(recorded):
    with pytest.raises(DataError, match=r"the accuracy gate needs labels, but given\.py:samples gives none"):
        recorded(xs(3), labels_for="the accuracy gate")
    assert recorded([(feed, 1) for feed in xs(3)], labels_for="the accuracy gate", name="labelled").count == 3


def test_a_calibration_set_has_no_labels(recorded):
    samples = recorded([({"x": np.arange(3, dtype=np.float32) + n}, object()) for n in range(1, 4)], calibration=True)
    assert samples.labels is None


def test_what_a_verdict_must_say_of_its_samples(recorded: Any) -> None:
    rows = [{"x": np.full(3, index, np.float32)} for index in range(6)]
    calibration, evaluation = recorded(rows[:4], name="calibration"), recorded(rows[2:], name="evaluation")
    assert calibration.seen.shared_with(evaluation.seen) == 2
    (shared,) = sample_notes(evaluation, calibration)
    assert shared.startswith("2 of the 4 calibration samples of given.py:samples are evaluation samples too")
    assert sample_notes(recorded(rows[4:], name="apart"), calibration) == []
    (single,) = sample_notes(evaluation.first(1), None)
    assert single.startswith("given.py:samples gave one evaluation sample")


def test_text_and_media_are_recorded_as_they_are(recorded, tmp_path):
    strings, x = TensorSpec("words", "BYTES", (1,)), np.zeros(3, np.float32)
    given = ["caf\u00e9", b"\x00\xff", [b"one"], np.array([b"two"], dtype=object)]
    samples = recorded([{"words": one, "x": x + index} for index, one in enumerate(given)], (strings, X))
    wanted = [[b"caf\xc3\xa9"], [b"\x00\xff"], [b"one"], [b"two"]]
    assert samples.batch(0, 4)["words"].tolist() == wanted
    assert samples.first(2).batch(1, 2)["words"].tolist() == [[b"\x00\xff"]]
    assert SampleSet.open(tmp_path / "set", "given.py:samples", only=["x"]).names == ("x",)


@pytest.mark.parametrize("value", [3, np.zeros(1), [b"one", b"two"]])
def test_what_is_no_string_is_refused(recorded, value):
    with pytest.raises(DataError, match=r"sample 0, input 'words'.*BYTES|shape is \[2\]"):
        recorded([{"words": value}], (TensorSpec("words", "BYTES", (1,)),))

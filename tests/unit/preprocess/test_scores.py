"""What is made of numbers, against the formulas; and a function of the recipe's own."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.preprocess import (
    L2Normalise,
    Normalise,
    Own,
    Pipeline,
    RefusedError,
    Softmax,
    Spec,
    Threshold,
    TopK,
    WiredMethod,
)

rows = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8).map(lambda row: np.array(row, np.float32))


@given(rows)
def test_softmax_gives_shares_in_the_same_order(scores: np.ndarray) -> None:
    found = Softmax(temperature=2.0).row({"scores": scores})["probabilities"]
    wanted = np.exp(scores.astype(np.float64) / 2)
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=1e-4, atol=1e-7)


@given(rows, st.integers(1, 8))
def test_top_k_gives_the_largest_first(scores: np.ndarray, k: int) -> None:
    found = TopK(k=min(k, len(scores))).row({"scores": scores})
    assert found["scores"].tolist() == sorted(scores.tolist(), reverse=True)[: min(k, len(scores))]
    assert found["ids"][0] == scores.argmax()


@given(rows)
def test_l2_normalise_gives_length_1(vector: np.ndarray) -> None:
    found = L2Normalise().row({"embedding": vector})["embedding"]
    assert np.isclose(np.linalg.norm(found), 1, atol=1e-5) or not vector.any()


def test_top_k_names_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"a\r\nb\nc\n")
    method = TopK(k=3, labels="labels.txt")
    method.open(tmp_path)
    assert method.row({"scores": np.array([1, 3, 2])})["labels"].tolist() == [b"b", b"c", b"a"]
    assert method.specs({"scores": Spec("FP32", (3,))})["labels"] == Spec("BYTES", (3,))
    with pytest.raises(ValueError, match="k is 3, and there are 2 scores"):
        method.specs({"scores": Spec("FP32", (2,))})
    with pytest.raises(RefusedError, match=r"labels.txt holds 3 labels, and there are 4 scores: a line for each"):
        method.row({"scores": np.arange(4)})
    with pytest.raises(RefusedError, match="k is 3, and there are 2 scores"):
        method.row({"scores": np.arange(2)})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a\nb", "k is 3, and labels.txt holds 2 labels"),
        (b"a\n\nb\nc", "labels.txt:2 is blank"),
        (b"a\nb\nc\xe9\n", "labels.txt:3 is no UTF-8"),
        (b"\xef\xbb\xbfa\nb\nc\n", "labels.txt:1 begins with a byte-order mark"),
        (b"", "labels.txt:1 is blank"),
    ],
)
def test_what_are_no_labels_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        TopK(k=3, labels="labels.txt").open(tmp_path)


def test_thresholds_and_normalisation() -> None:
    assert Threshold(0.5).row({"scores": np.array([0.4, 0.5])})["above"].tolist() == [False, True]
    values = np.arange(6, dtype=np.uint8).reshape(3, 2)
    found = Normalise(mean=(1, 2, 3), std=(2,), axis=0).row({"values": values})["values"]
    np.testing.assert_allclose(found, (values - [[1], [2], [3]]) / 2)
    with pytest.raises(ValueError, match="3 values for an axis of 2"):
        Normalise(mean=(1, 2, 3), axis=1).specs({"values": Spec("UINT8", (3, 2))})


OWN = """
import numpy as np
from beside import FACTOR

def double(values, text):
    if text == b"no":
        raise ValueError("says no")
    return {"twice": values * FACTOR, "said": text.upper()}

def wrong(values, text):
    return {"twice": values.astype(np.float64), "said": text}
"""


def test_a_function_of_the_recipes_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    specs = {"twice": Spec("FP32", (2,)), "said": Spec("BYTES", (1,))}
    outputs = {"twice": "y", "said": "words"}
    described = {
        "method": "own.py:double", "inputs": {"values": "x", "text": "t"}, "outputs": outputs,
        "options": {"outputs": {name: list(spec) for name, spec in specs.items()}},
    }  # fmt: skip
    pipeline = Pipeline.from_json([described], tmp_path)
    x, text = np.ones((2, 2), np.float32), np.array([[b"a"], [b"b"]], dtype=object)
    found = pipeline.batch({"x": x, "t": text})
    assert found["y"].tolist() == [[2, 2], [2, 2]] and found["words"].tolist() == [[b"A"], [b"B"]]
    text[1, 0] = b"no"
    with pytest.raises(RefusedError, match="'x' and 't', row 1: says no"):
        pipeline.batch({"x": x, "t": text})
    method = Own("own.py:wrong", specs)
    method.open(tmp_path)
    with pytest.raises(TypeError, match=r"gave 'twice' as float64 \[2\], declared is FP32 \[2\]"):
        method.row({"values": x[0], "text": text[0]})
    with pytest.raises(ValueError, match="no callable 'gone'"):
        Own("own.py:gone", specs).open(tmp_path)


NAMESAKE = """
from words import WORD

def said():
    import late
    return {"said": f"{WORD} {late.WORD}"}
"""


def test_two_recipes_in_one_process_have_siblings_of_one_name(tmp_path: Path) -> None:
    for place in ("one", "two"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "own.py").write_text(NAMESAKE)
        (folder / "words.py").write_text(f"WORD = {place!r}\n")
        (folder / "late.py").write_text(f"WORD = {place * 2!r}\n")
        method = Own("own.py:said", {"said": Spec("BYTES", (1,))})
        method.open(folder)
        assert method.row({})["said"].tolist() == [f"{place} {place * 2}".encode()]


def test_rows_of_several_sizes_are_refused_together() -> None:
    wired = WiredMethod(L2Normalise(), {"embedding": "x"}, {"embedding": "y"})
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.ones(2), np.ones(3)]
    with pytest.raises(RefusedError, match=r"rows 0 and 1 give 'y' of \[2\] and \[3\]"):
        wired.batch({"x": ragged})

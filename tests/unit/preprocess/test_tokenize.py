"""Texts as token ids, by a tokenizer.json: as the library gives them, cut and filled up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.preprocess import RefusedError, Spec, Tokenize

FILE = Path(__file__).parents[2] / "media_recipe" / "tokenizer.json"


def tokens(text: Any, **options: Any) -> dict[str, np.ndarray]:
    method = Tokenize(FILE.name, **options)
    method.open(FILE.parent)
    return method.row({"text": text})


def test_texts_are_filled_up_or_cut_to_a_length() -> None:
    found = tokens("An owl", length=4)
    assert found["ids"].tolist() == [2, 3, 0, 0] and found["mask"].tolist() == [1, 1, 0, 0]
    assert tokens("an owl sees a cat", length=3)["ids"].tolist() == [2, 3, 6]
    assert tokens("an owl", length=4, pad_id=7)["ids"].tolist() == [2, 3, 7, 7]


def test_lengths_vary_up_to_a_largest() -> None:
    assert tokens("an owl", max_length=4)["ids"].tolist() == [2, 3]
    assert tokens("an owl sees a cat", max_length=4)["ids"].tolist() == [2, 3, 6, 7]
    with pytest.raises(RefusedError, match="has 5 tokens, at most 4"):
        tokens("an owl sees a cat", max_length=4, truncate=False)


def test_a_list_of_texts_is_a_row_each() -> None:
    many = Tokenize(FILE.name, length=4, several=True)
    assert many.specs({"text": Spec("BYTES", (-1,))})["ids"] == Spec("INT64", (-1, 4))
    assert many.specs({"text": Spec("BYTES", (3,))})["mask"] == Spec("INT64", (3, 4))
    texts = ["An owl", "", "an owl sees a cat"]
    with pytest.raises(RefusedError, match="at index 1 has no tokens"):
        tokens(texts, length=4, several=True)
    texts[1] = "cat"
    found = tokens(np.array([text.encode() for text in texts], dtype=object), length=4, several=True)
    for row, text in enumerate(texts):
        for name, array in tokens(text, length=4).items():
            assert found[name][row].tolist() == array.tolist()
    for one in (["cat"], "cat", np.array([b"cat"], dtype=object)):
        assert tokens(one, length=4, several=True)["ids"].shape == (1, 4)
    with pytest.raises(RefusedError, match="holds no text"):
        tokens([], length=4, several=True)
    with pytest.raises(ValueError, match=r"BYTES of shape \[K\], K texts, not BYTES \[2, 3\]"):
        many.specs({"text": Spec("BYTES", (2, 3))})


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"caf\xe9", "is no UTF-8"), ("", "has no tokens"), ("a " * 40_000, "at most 65536"), ("  ", "has no tokens")],
)
def test_what_is_no_text_is_refused(text: Any, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        tokens(text, length=4)


def test_wrong_options_and_files_are_told(tmp_path: Path) -> None:
    for options in ({}, {"length": 3, "max_length": 4}):
        with pytest.raises(ValueError, match="one of them"):
            Tokenize("tokenizer.json", **options)
    with pytest.raises(ValueError, match="give length, to which each is filled up"):
        Tokenize("tokenizer.json", max_length=4, several=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        Tokenize("tokenizer.json", length=4).open(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenize("gone.json", length=4).open(tmp_path)

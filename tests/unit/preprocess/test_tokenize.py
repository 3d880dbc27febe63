"""Texts as token ids, by a tokenizer.json: as the library gives them, cut and filled up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.preprocess import RefusedError, Tokenize

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
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        Tokenize("tokenizer.json", length=4).open(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenize("gone.json", length=4).open(tmp_path)

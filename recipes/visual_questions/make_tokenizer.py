"""Make `tokenizer.json`: a number for each word of the questions, spaces and punctuation apart.

python recipes/visual_questions/make_tokenizer.py    # needs tokenizers
"""

from __future__ import annotations

from pathlib import Path

from data import sentences
from model import VOCABULARY
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

PATH = Path(__file__).with_name("tokenizer.json")


def main() -> None:
    """Write `tokenizer.json` beside this file; words that no question has become [UNK]."""
    cut = pre_tokenizers.Whitespace()
    words = sorted({word for sentence in sentences() for word, _ in cut.pre_tokenize_str(sentence)})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    assert len(vocabulary) <= VOCABULARY
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = cut
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(PATH))
    longest = max(len(tokenizer.encode(sentence).ids) for sentence in sentences())
    print(f"{PATH.name}: {len(vocabulary)} words, longest question {longest}")


if __name__ == "__main__":
    main()

"""Write tokenizer.json: one token a word of the phrases in data.py, and one for all other words.

    python recipes/moderation/make_tokenizer.py

The numbers of words are in the committed weights: other phrases need other weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from data import BEGINNINGS, ENDINGS, OPEN_BEGINNINGS


def main() -> None:
    """Write the file beside this one."""
    phrases = [phrase for told in (*BEGINNINGS, OPEN_BEGINNINGS, ENDINGS) for phrase in told]
    words = ["[PAD]", "[UNK]", *sorted({word for phrase in phrases for word in phrase.split()})]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}, "unk_token": "[UNK]",
        },
    }  # fmt: skip
    Path(__file__).with_name("tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")


if __name__ == "__main__":
    main()

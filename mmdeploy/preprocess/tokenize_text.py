"""Token ids of a text, by a ``tokenizer.json``.

What it does: what the file says (normalizer, model, template of special tokens), cut to ``length`` or ``max_length``
with the special tokens kept, and filled up to ``length`` on the right. The mask is 1 where a token is real. An empty
text is its special tokens alone; where there are none, it is refused. With ``several`` a sample holds a list of texts,
such as the labels to choose from, and each is a row of what is given.
When to choose it: clients send text, in UTF-8.
What it needs: tokenizers; the file as ``save_pretrained`` of a fast tokenizer writes it.
Limits: a text of more than ``max_bytes`` is refused before it is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .refusal import Array, RefusedError, Spec, content_of, one_string

_USUAL_PADDING = ("[PAD]", "<pad>", "<|endoftext|>")


@dataclass(frozen=True)
class Tokenize:
    """Options, and the method itself."""

    tokenizer: str = field(metadata={"about": "The tokenizer.json.", "path": True})
    length: int | None = field(default=None, metadata={"about": "Every text is cut or filled to so many tokens."})
    max_length: int | None = field(
        default=None, metadata={"about": "Instead of length: texts have as many tokens as they need, up to so many."}
    )
    truncate: bool = field(default=True, metadata={"about": "Cut what is longer; otherwise it is refused."})
    special_tokens: bool = field(default=True, metadata={"about": "Add those of the file's template."})
    pad_id: int | None = field(
        default=None, metadata={"about": "Fills up; none: that of the file's padding, else of [PAD] or <pad>."}
    )
    several: bool = field(
        default=False, metadata={"about": "A sample is a list of texts, BYTES [K]: ids are [K, length]."}
    )
    max_bytes: int = field(default=65_536, metadata={"about": "Longest text, in bytes of UTF-8."})

    INPUTS: ClassVar[tuple[str, ...]] = ("text",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("ids", "mask", "types")
    #: Outputs that may have one value in a whole set: nothing is filled in, and texts have no second part.
    MAY_BE_CONSTANT: ClassVar[tuple[str, ...]] = ("mask", "types")
    REQUIRES: ClassVar[tuple[str, ...]] = ("tokenizers",)

    def __post_init__(self) -> None:
        """Check what the options say together."""
        if (self.length is None) == (self.max_length is None):
            raise ValueError("give length (every text is filled to it) or max_length (lengths vary), one of them")
        if self._most < 1 or self.max_bytes < 1:
            raise ValueError("length, max_length and max_bytes are 1 or more")
        if self.several and self.length is None:
            raise ValueError("several texts are rows of one tensor: give length, to which each is filled up")

    @property
    def _most(self) -> int:
        return self.length if self.length is not None else self.max_length or 0

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        width = -1 if self.length is None else self.length
        if not self.several:
            one_string(given["text"])
            return dict.fromkeys(self.OUTPUTS, Spec("INT64", (width,)))
        dtype, shape = given["text"]
        if dtype != "BYTES" or len(shape) != 1:
            raise ValueError(f"takes BYTES of shape [K], K texts, not {dtype} {list(shape)}")
        return dict.fromkeys(self.OUTPUTS, Spec("INT64", (shape[0], width)))

    def open(self, folder: Path) -> None:
        """Load the tokenizer.

        Raises:
            ValueError: If it is none, or does not say what to fill up with.
        """
        tokenizer, padding = _opened(folder / self.tokenizer, self._most if self.truncate else None)
        found = self.pad_id if self.pad_id is not None else padding
        if self.length is not None and found is None:
            raise ValueError(f"{self.tokenizer} does not say what fills up short texts: give pad_id")
        object.__setattr__(self, "_loaded", (tokenizer, found or 0))

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Tokenize the text of a sample, or each of its texts.

        Raises:
            RefusedError: If one is no text, or beyond a limit.
        """
        import numpy as np

        if not self.several:
            return self._tokenized(values["text"])
        texts = [values["text"]] if isinstance(values["text"], str | bytes) else list(values["text"])
        if not texts:
            raise RefusedError("holds no text")
        rows = []
        for number, text in enumerate(texts):
            try:
                rows.append(self._tokenized(text))
            except RefusedError as error:
                raise RefusedError(f"at index {number} {error}") from error
        return {name: np.stack([row[name] for row in rows]) for name in self.OUTPUTS}

    def _tokenized(self, value: Any) -> dict[str, Array]:
        import numpy as np

        try:
            text = content_of(value, self.max_bytes, may_be_empty=True).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RefusedError(f"is no UTF-8: {error.reason} at byte {error.start}") from error
        tokenizer, pad = getattr(self, "_loaded")  # noqa: B009 - the class is frozen
        encoding = _encoded(tokenizer, text, self.special_tokens)
        count, size = len(encoding.ids), self.length
        if count > self._most:
            raise RefusedError(f"has {count} tokens, at most {self._most} are taken")
        if not count:
            raise RefusedError("has no tokens")
        size = count if size is None else size
        ids, mask, types = np.full(size, pad, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64)
        ids[:count], mask[:count], types[:count] = encoding.ids, 1, encoding.type_ids
        return {"ids": ids, "mask": mask, "types": types}


def _encoded(tokenizer: Any, text: str, special_tokens: bool) -> Any:
    try:
        return tokenizer.encode(text, add_special_tokens=special_tokens)
    except Exception as error:
        raise RefusedError(f"cannot be tokenized: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust's code, which derives from no Exception
            raise
        raise RefusedError("cannot be tokenized: the tokenizer failed") from error


@functools.lru_cache(maxsize=16)
def _opened(path: Path, most: int | None) -> tuple[Any, int | None]:
    """Return a tokenizer that cuts, and the id that fills up."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever tokenizers says of a file
        raise ValueError(f"{path} is no tokenizer.json: {error}") from error
    padding = (tokenizer.padding or {}).get("pad_id")
    if padding is None:
        known = (tokenizer.token_to_id(word) for word in _USUAL_PADDING)
        padding = next((found for found in known if found is not None), None)
    tokenizer.no_padding()
    if most is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(most)
    return tokenizer, padding

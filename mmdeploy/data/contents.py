"""What a recorded set of samples holds, as one digest, without opening its arrays.

Two sets of the same content give whoever reads them the same, wherever the samples came from. A plan's keys are made of
this, so that a change to data code that changes no sample makes no later step run again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

#: The set's main file: JSON.
INDEX = "samples.json"
#: `DIGEST_BYTES` for each sample, in order.
DIGESTS = "digests.bin"
#: Of SHA-256, that tell a sample's inputs from all others.
DIGEST_BYTES = 16


@dataclass(frozen=True)
class SetFacts:
    """What the step that recorded a set tells of it.

    Attributes:
        content: Digest of all that it holds: see `content`.
    """

    content: str


@dataclass(frozen=True)
class SetSize:
    """How large a recorded set is.

    Attributes:
        samples: Samples in it.
    """

    samples: int


def content(folder: Path, first: int | None = None) -> str:
    """Return the digest of a recorded set.

    Args:
        folder: Where it was recorded.
        first: Only of the inputs of so many samples, from the first; None for all of it, labels included.

    Raises:
        OSError: If there is no set.
        ValueError: If its index is damaged.
    """
    if first is None:
        return str(json.loads((folder / INDEX).read_text(encoding="utf-8"))["content"])
    with (folder / DIGESTS).open("rb") as stream:
        return digest_of(stream.read(first * DIGEST_BYTES))


def digest_of(digests: bytes, *labels: bytes) -> str:
    """Return the digest of a set from those of its samples and from its labels' files, in hex."""
    digest = hashlib.sha256(digests)
    for part in labels:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()

"""Requests that are serialized before anything is timed, and those of a sample that is sent in chunks."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prepared:
    """A request as it goes over the wire.

    Attributes:
        body: Its bytes.
        headers: Of HTTP; empty for gRPC.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


#: Numbers of sequences, all of as many digits: a text that holds one has the same length with another.
LEAST_SEQUENCE, SEQUENCES = 10**17, 9 * 10**17


@dataclass(frozen=True)
class InChunks:
    """A sample as the requests of a sequence, each of which is sent behind the answer to the one before.

    Attributes:
        chunks: What gives each request the number of its sequence.
    """

    chunks: tuple[Callable[[int], Prepared], ...]

    def numbered(self) -> list[Prepared]:
        """Return the requests of a sequence that nobody else has."""
        number = LEAST_SEQUENCE + secrets.randbelow(SEQUENCES)
        return [chunk(number) for chunk in self.chunks]


class Turns:
    """What one client sends: requests in turns; of samples in chunks, all of one before the next."""

    def __init__(self, requests: Sequence[Prepared | InChunks], numbers: Iterator[int]) -> None:
        """Take what is asked, and what all clients count the samples in chunks by."""
        self._requests, self._numbers = requests, numbers
        self._left: list[Prepared] = []

    def next(self, number: int) -> Prepared:
        """Return the next request.

        Args:
            number: Of the request, over all clients.
        """
        if not self._left:
            one = self._requests[number % len(self._requests)]
            if isinstance(one, Prepared):
                return one
            one = self._requests[next(self._numbers) % len(self._requests)]
            assert isinstance(one, InChunks)
            self._left = one.numbered()
        return self._left.pop(0)

    def give_up(self) -> Prepared | None:
        """Begin anew with the next request; return what ends the sequence that is open, if one is."""
        last = self._left[-1] if self._left else None
        self._left = []
        return last

"""A request that is serialized before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping
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

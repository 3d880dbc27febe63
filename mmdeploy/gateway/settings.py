"""What a gateway allows: how large, how many, how long, and who."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmdeploy.gateway.keys import Keys


@dataclass(frozen=True)
class Settings:
    """Limits and keys of a gateway.

    Attributes:
        max_body_bytes: Of one request.
        max_buffered_bytes: Of all requests that are being read or answered.
        max_rows: Of one batch; a model's own limit counts, too.
        max_in_flight: Requests that models are asked at once; further ones are told to come again.
        max_connections: Requests that are being read, asked or answered at once.
        timeout_s: For the answer of a model.
        body_timeout_s: For a request's body to arrive.
        requests_per_s: Of each key, or of each address where no keys are wanted; None for any number.
        burst: Requests that may come at once before that counts.
        probe_every_s: How long the answer to a readiness probe is kept.
        keys: Who may ask, and who may control.
        allowed_origins: Of pages elsewhere that browsers may let ask; none by default, and never control.
        allowed_hosts: Names that a request may call this gateway by; None for any. A page elsewhere could make a
            browser call an address of this machine by a name of its own (DNS rebinding).
    """

    max_body_bytes: int = 32 * 2**20
    max_buffered_bytes: int = 256 * 2**20
    max_rows: int = 64
    max_in_flight: int = 64
    max_connections: int = 1000
    timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    requests_per_s: float | None = None
    burst: int = 20
    probe_every_s: float = 5.0
    keys: Keys = field(default_factory=Keys)
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = None

"""What a gateway answers when it does not answer: a status, a code for programs, words for people."""

from __future__ import annotations

from typing import Literal, TypeAlias

Code: TypeAlias = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "timeout",
    "conflict",
    "too_large",
    "unsupported_media_type",
    "rate_limit",
    "busy",
    "internal",
    "server_failed",
    "server_unavailable",
    "server_timeout",
]
#: By code. Those from 500 on say that the request may have been right.
STATUS: dict[Code, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "rate_limit": 429,
    "internal": 500,
    "server_failed": 502,
    "busy": 503,
    "server_unavailable": 503,
    "server_timeout": 504,
}
#: What counts as refused, and the reason that metrics give; of others the server's statistics tell.
REFUSED: dict[Code, str] = {
    "bad_request": "bad_request",
    "unsupported_media_type": "bad_request",
    "timeout": "bad_request",
    "unauthorized": "unauthorized",
    "forbidden": "unauthorized",
    "too_large": "too_large",
    "rate_limit": "rate_limit",
    "busy": "busy",
}


class Refused(Exception):  # noqa: N818 - most often the answer to a wrong request, no fault
    """A request that is not answered, and why."""

    def __init__(
        self, code: Code, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.retry_after_s = code, message, hint, retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

"""Logs for programs: a JSON object a line, with what a request was about and never a key, a query or a body."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from typing import Any, TextIO

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
#: Where a record carries what belongs to a request.
FIELDS = "mmdeploy_fields"


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=True, default=str)


def log_as_json(stream: TextIO | None = None) -> None:
    """Have all that is logged from now on be JSON, on standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().handlers[:] = [handler]
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
    logging.getLogger("mmdeploy.gateway").setLevel(logging.INFO)


def request_id(given: str | None) -> str:
    """Return the id that a client gave, if it is one, else a new one."""
    return given if given and _ID.fullmatch(given) else secrets.token_hex(16)


def trace_id(traceparent: str | None) -> str | None:
    """Return the trace that a client says its request belongs to."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip().lower())
    return found["trace"] if found else None

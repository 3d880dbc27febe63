"""Asks the release's own sample of the server beside it: whether it answers; a script, standard library only.

Triton says that it and its models are ready although every request fails, as after a crash of a Python step's process.
So readiness is an answer. Ends with 0 for one, with 1 and a line that says why for anything else.

``--alive`` asks the same for another decision, whether to start the server anew: a server that does not come to the
question in time has too much to do, and an end would make that worse, so this counts as alive; a refusal does not.

A server with a response cache would answer a question that it knows from there: two values of the first input change
places each time, which keeps them in their range.

Usage: ``python3 -I probe.py [--alive] [--release DIR] [--url URL] [--timeout SECONDS]``
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import sys
import urllib.parse
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_NOT_IN_TIME = "no answer in time"


def main(argv: list[str]) -> int:
    """Ask, and say how it went."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--alive", action="store_true")
    parser.add_argument("--release", type=Path, default=HERE / "release")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--timeout", type=float, default=4.0)
    given = parser.parse_args(argv)
    wrong = _wrong(given.release, given.url, given.timeout)
    if given.alive and wrong == _NOT_IN_TIME:
        wrong = None
    if wrong:
        sys.stdout.write(f"{wrong}\n")
    return 1 if wrong else 0


def _wrong(release: Path, url: str, timeout_s: float) -> str | None:
    """Say what is wrong with the answer; None where there is one."""
    name = json.loads((release / "manifest.json").read_bytes())["name"]
    headers, body = _request(release)
    path = f"/v2/models/{urllib.parse.quote(name)}/{'ready' if body is None else 'infer'}"
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    with contextlib.closing(connection):
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            return _NOT_IN_TIME
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {error}"
    if response.status != http.client.OK:
        return f"{name} answers with {response.status}: {answer[:500].decode(errors='replace')}"
    return None


def _request(release: Path) -> tuple[dict[str, str], bytes | None]:
    """Return headers and body of the release's sample; no body where it has none."""
    headers_file = release / "sample_request.headers"
    if not headers_file.is_file():
        return {}, None
    lines = headers_file.read_text(encoding="ascii").splitlines()
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
    as_bytes, as_json = release / "sample_request.bin", release / "sample_request.json"
    if as_bytes.is_file():
        return headers, as_bytes.read_bytes()
    return headers, json.dumps(_varied(json.loads(as_json.read_bytes()))).encode()


def _varied(request: dict[str, Any]) -> dict[str, Any]:
    """Let two values of the first input that has two numbers change places."""
    for tensor in request["inputs"]:
        data = tensor["data"]
        if len(data) > 1 and all(isinstance(value, int | float) for value in data):
            first, second = random.sample(range(len(data)), 2)
            data[first], data[second] = data[second], data[first]
            break
    return request


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Who may ask, how often, and what is written down of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import UsageError
from mmdeploy.gateway.keys import ADMIN_VARIABLE, KEYS_VARIABLE, read_keys
from mmdeploy.gateway.logs import FIELDS, JsonFormatter, request_id, trace_id
from mmdeploy.gateway.rate import RateLimit, whole_seconds

ONE, TWO, ADMIN = "first-key-0123456789", "second-key-012345678", "admin-key-0123456789"


def test_keys_of_files_have_names_and_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# ours\nmobile {ONE}\n\n{TWO}\n")
    (tmp_path / "admin").write_text(f"{ADMIN}\n")
    keys = read_keys(tmp_path / "keys", tmp_path / "admin", {})
    assert [key.name for key in keys.clients] == ["mobile", f"key-{keys.clients[1].digest.hex()[:8]}"]
    mobile = keys.client(ONE)
    assert mobile is not None
    assert mobile.name == "mobile"
    assert keys.client(TWO) == keys.clients[1]
    assert keys.client(ADMIN) == keys.admin(ADMIN) == keys.admins[0]
    assert keys.admin(ONE) is keys.client("x") is keys.client("") is None
    assert not any(secret in repr(keys) for secret in (ONE, TWO, ADMIN))


def test_keys_of_the_environment_count_where_no_file_is_named() -> None:
    keys = read_keys(None, None, {KEYS_VARIABLE: f"{ONE}, web {TWO}", ADMIN_VARIABLE: ADMIN})
    assert [key.name for key in keys.clients][1] == "web"
    assert keys.admin(ADMIN) is not None
    assert read_keys(None, None, {}).clients == ()


WRONG = {
    "short": ("short\n", "line 1 is no key"),
    "three words": (f"my own {ONE}\n", "line 1 is no key"),
    "twice": (f"{ONE}\nagain {ONE}\n", "line 2 is a key that an earlier line has"),
    "none": ("# nothing\n", "holds no key"),
    "no text": (b"\xff\xfe", "keys cannot be read: it is no text"),
}


@pytest.mark.parametrize(("content", "words"), WRONG.values(), ids=WRONG)
def test_a_file_that_holds_something_else_is_told_and_not_shown(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    (tmp_path / "keys").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as wrong:
        read_keys(tmp_path / "keys", None, {})
    assert words in wrong.value.message
    assert ONE not in wrong.value.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keys cannot be read: No such file"):
        read_keys(tmp_path / "gone", None, {})


def test_a_bucket_empties_and_fills() -> None:
    now = [100.0]
    limit = RateLimit(2.0, 3, clock=lambda: now[0])
    assert [limit.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait_s("b") == 0
    now[0] += 0.5
    assert [limit.wait_s("a") for _ in range(2)] == [0, 0.5]
    now[0] += 1000
    assert [limit.wait_s("a") for _ in range(4)][-1] == 0.5
    assert whole_seconds(0.5) == 1
    assert whole_seconds(2.1) == 3


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_no_more_requests_pass_than_the_rate_allows(pauses: list[float]) -> None:
    now = [0.0]
    limit = RateLimit(1.0, 2, clock=lambda: now[0])
    passed = 0
    for pause in pauses:
        now[0] += pause
        passed += limit.wait_s("a") == 0
    assert passed <= 2 + sum(pauses)


def test_callers_that_are_many_are_forgotten() -> None:
    limit = RateLimit(1.0, 1, clock=lambda: 0.0)
    for number in range(20_000):
        limit.wait_s(str(number))
    assert len(limit._buckets) == 10_000
    assert limit.wait_s("19999") > 0


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENTS = {
    f"00-{TRACE}-00f067aa0ba902b7-01": TRACE,
    f"01-{TRACE}-00f067aa0ba902b7-01-more": TRACE,
    f"ff-{TRACE}-00f067aa0ba902b7-01": None,
    f"00-{'0' * 32}-00f067aa0ba902b7-01": None,
    f"00-{TRACE}-{'0' * 16}-01": None,
    "nonsense": None,
}


@pytest.mark.parametrize(("given_parent", "expected"), PARENTS.items())
def test_the_trace_of_a_request_is_read(given_parent: str, expected: str | None) -> None:
    assert trace_id(given_parent) == expected


def test_an_id_is_taken_over_if_it_is_one() -> None:
    assert request_id("abc-1") == "abc-1"
    for wrong in (None, "", "a b", "x" * 200, 'a"\n'):
        made = request_id(wrong)
        assert made != wrong
        assert len(made) == 32


def test_a_log_line_is_one_object_whatever_it_says() -> None:
    record = logging.LogRecord("mmdeploy.x", logging.INFO, "f", 1, 'two\nlines "quoted" %s', ("é\u2028",), None)
    setattr(record, FIELDS, {"path": "/in\nfer", "status": 200})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == 'two\nlines "quoted" é\u2028'
    assert (told["level"], told["path"], told["status"]) == ("info", "/in\nfer", 200)

"""How long `serve` waits before it starts a server again, by a clock of the test's own."""

from mmdeploy.triton.server_log import set_aside
from mmdeploy.triton.tending import WINDOW_S, Backoff


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer_until_there_were_too_many():
    backoff = Backoff(8, clock=lambda: 0.0)
    assert [backoff.wait_s() for _ in range(9)] == [0, 1, 2, 4, 4, 4, 4, 4, None]


def test_what_is_long_ago_is_forgotten():
    now = [0.0]
    backoff = Backoff(2, clock=lambda: now[0])
    assert [backoff.wait_s() for _ in range(3)] == [0, 1, None]
    now[0] = WINDOW_S + 1
    assert [backoff.wait_s() for _ in range(3)] == [0, 1, None]


def test_no_restarts_are_none():
    assert Backoff(0).wait_s() is None


def test_a_log_is_set_aside_under_the_first_free_number(tmp_path):
    log = tmp_path / "triton.log"
    set_aside(log)
    for text in ("first", "second"):
        log.write_text(text)
        set_aside(log)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "triton.1.log": "first", "triton.2.log": "second",
    }  # fmt: skip

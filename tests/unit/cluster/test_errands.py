"""Work in a process of its own on a node: what comes back, and that it ends with whoever waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import living_processes
import pytest

from mmdeploy.cluster.connection import check_address
from mmdeploy.cluster.errands import Errand, _run_there
from mmdeploy.core.errors import UsageError


def test_what_comes_back_is_an_answer_an_error_or_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run_there(Errand(len, "four", {})).content == 4
    refused = _run_there(Errand(check_address, "nowhere", {}))
    assert refused.kind == "error" and isinstance(refused.content, UsageError)
    assert "'nowhere' names no cluster" in refused.content.message
    bug = _run_there(Errand(int, "four", {}))
    assert (bug.kind, bug.content) == ("bug", "ValueError: invalid literal for int() with base 10: 'four'")
    assert "Traceback" in bug.log
    lost = _run_there(Errand(os._exit, 7, {}))
    assert (lost.kind, lost.content) == ("bug", "its process ended with 7")
    monkeypatch.setenv("GONE", "1")
    assert _run_there(Errand(os.getenv, "GONE", {"GONE": None})).content is None
    assert _run_there(Errand(os.getenv, "NEW", {"NEW": "2"})).content == "2"


def test_it_is_interrupted_when_the_process_that_waits_ends(tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    command = ["sh", "-c", f"echo $$ > {mark}; exec sleep 600"]
    code = (
        "import subprocess; from mmdeploy.cluster.errands import Errand, _run_there; "
        f"_run_there(Errand(subprocess.run, {command!r}, {{}}))"
    )
    waiting = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    try:
        end = time.monotonic() + 60
        while not (mark.is_file() and mark.read_text()):
            assert time.monotonic() < end and waiting.poll() is None
            time.sleep(0.05)
        below = living_processes.below(waiting.pid)
        assert int(mark.read_text()) in [one.pid for one in below]
    finally:
        waiting.send_signal(signal.SIGKILL)
        waiting.wait()
    living_processes.assert_ended(below)
    assert "KeyboardInterrupt" in next(tmp_path.rglob("log")).read_text()

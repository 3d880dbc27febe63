"""What a build is doing, while it does it.

`BuildDisplay` is given a `rich.console.Console` and writes nowhere else. Where that is no interactive
terminal, or CI runs us, it writes plain lines, one an event, without any control character.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from mmdeploy.core import contracts
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import GateRecord, StepRecord
from mmdeploy.report.terminal import STYLES, change_text, plain
from mmdeploy.report.units import seconds_text
from mmdeploy.report.wording import warned_text

_HEARTBEAT_SECONDS = 10.0
_LOOK_SECONDS = 1.0


class BuildDisplay:
    """Says what a build is doing; safe to call from several threads.

    Args:
        console: Where to write.
        live: Draw moving bars; by default where the console is a terminal and ``CI`` is not set.
        clock: Monotonic seconds.
    """

    def __init__(
        self, console: Console, *, live: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._live = _can_animate(console) if live is None else live
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._heartbeat: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._doing: dict[str, str] = {}
        self._ended = threading.Event()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24, complete_style="cyan", pulse_style="cyan"),
            TextColumn("{task.fields[what]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        if not self._live:
            threading.Thread(target=self._beat_until_the_end, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._bars.stop()

    def beat(self) -> None:
        """Write a line for each step that was silent for ten seconds: CI systems end a job that says nothing."""
        now, due = self._clock(), []
        with self._lock:
            for step, last in self._heartbeat.items():
                if now - last >= _HEARTBEAT_SECONDS and step in self._started:
                    self._heartbeat[step] = now
                    due.append((step, now - self._started[step], self._doing.get(step, "")))
        for step, running, doing in due:
            self._line(f"{step}: {doing or 'running'}, {running:.0f} s so far")

    def _beat_until_the_end(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.beat()

    def step_started(self, step: str) -> None:
        """Say that a step, or any other long work such as ``gates/latency``, has started."""
        with self._lock:
            self._started[step] = self._heartbeat[step] = self._clock()
            if self._live:
                self._tasks[step] = self._bars.add_task(self._one_line(step), total=None, what="")
        if not self._live:
            self._line(f"{step}: started")

    def progress(self, step: str, done: int, total: int | None, what: str) -> None:
        """Move the step's bar; without a terminal, write a line every ten seconds."""
        words = f"{done}{'' if total is None else f' of {total}'} {what}"
        with self._lock:
            if self._live:
                if step in self._tasks:
                    task = self._tasks[step]
                    self._bars.update(task, completed=done, total=total, what=self._one_line(words))
                return
            self._doing[step] = words
            if self._clock() - self._heartbeat.get(step, 0.0) < _HEARTBEAT_SECONDS:
                return
            self._heartbeat[step] = self._clock()
        self._line(f"{step}: {words}")

    def reporter(self, step: str) -> contracts.Progress:
        """Return the progress callable to put into a step's context."""
        return functools.partial(self.progress, step)

    def step_finished(self, record: StepRecord) -> None:
        """Write the step's line: status, time, size before and after, why."""
        took = seconds_text(record.seconds) if record.status in ("ran", "failed") else ""
        parts = (
            record.status + warned_text(record),
            took,
            change_text(record.size_before_bytes, record.size_after_bytes),
            record.why,
        )
        self._finish(record.id, ", ".join(part for part in parts if part), STYLES[record.status])

    def gate_finished(self, record: GateRecord) -> None:
        """Write the gate's line: its verdict and what did not pass."""
        open_checks = [check.name for check in record.checks if check.verdict is not Verdict.PASS]
        took = f", {seconds_text(record.seconds)}" if record.seconds is not None else ""
        names = f": {', '.join(open_checks)}" if open_checks else ""
        self._finish(f"gates/{record.gate}", f"{record.verdict}{took}{names}", STYLES[record.verdict])

    def work_finished(self, step: str, words: str) -> None:
        """End the bar of work that is neither a step nor a gate, and say how it went."""
        self._finish(step, words, "")

    def _finish(self, step: str, words: str, style: str) -> None:
        with self._lock:
            task = self._tasks.pop(step, None)
            for known in (self._heartbeat, self._started, self._doing):
                known.pop(step, None)
            if task is not None:
                self._bars.remove_task(task)
        self._line(f"{step}: {words}", style=style)

    def _line(self, words: str, *, style: str = "") -> None:
        text = Text(self._one_line(words), style=style)
        self._console.print(text, soft_wrap=not self._live, highlight=False)

    def _one_line(self, words: str) -> str:
        return plain(" ".join(words.split()), self._console.options)


def _can_animate(console: Console) -> bool:
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty() and not in_ci

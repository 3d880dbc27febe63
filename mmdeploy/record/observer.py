"""Who watches a build: the seam between the build and whatever shows its progress."""

from __future__ import annotations

from typing import Protocol

from mmdeploy.record.build_report import GateRecord, StepRecord


class Observer(Protocol):
    """Told what a build is doing, as it does it."""

    def step_started(self, step: str) -> None:
        """Take note that a step, or other work such as ``serve`` or ``gates/latency``, begins."""

    def progress(self, step: str, done: int, total: int | None, what: str) -> None:
        """Take note of how far it is."""

    def step_finished(self, record: StepRecord) -> None:
        """Take note of how a step ended."""

    def gate_finished(self, record: GateRecord) -> None:
        """Take note of what a gate came to; it was started as ``gates/<method>``."""

    def work_finished(self, step: str, words: str) -> None:
        """Take note of how work ended that is neither a step nor a gate."""


class Silent:
    """An `Observer` that takes no note."""

    def step_started(self, step: str) -> None:
        """Do nothing."""

    def progress(self, step: str, done: int, total: int | None, what: str) -> None:
        """Do nothing."""

    def step_finished(self, record: StepRecord) -> None:
        """Do nothing."""

    def gate_finished(self, record: GateRecord) -> None:
        """Do nothing."""

    def work_finished(self, step: str, words: str) -> None:
        """Do nothing."""

"""What steps tell while they run: an actor that keeps it until it is asked for."""

from __future__ import annotations

from typing import Any


class Messages:
    """Keeps messages in their order."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, tuple[Any, ...]]] = []

    def put(self, number: int, message: tuple[Any, ...]) -> None:
        """Add what an attempt told."""
        self._kept.append((number, message))

    def take(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Return what was told since the last time."""
        taken, self._kept = self._kept, []
        return taken

"""Functions that make and test paths, with a watch in front of them that is told before native code uses the paths."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mmdeploy.model.passing_over import is_passed_over, ourselves


class Told(Protocol):
    """Who is told."""

    def probed(self, path: Any) -> None:
        """Note that Python looks whether a file is there."""

    def touch(self, path: str) -> None:
        """Note that there is business with a path."""


@contextlib.contextmanager
def standing_in_front(watching: Callable[[], Told | None]) -> Iterator[None]:
    """Tell of paths while the context is open.

    Args:
        watching: Gives who is told; None while nobody is to be.
    """
    fronts: list[tuple[Any, str, Callable[[Told, Any, Any], None]]] = [
        (os, "stat", lambda watch, given, _: watch.probed(given)),
        (os, "lstat", lambda watch, given, _: watch.probed(given)),
        (os.path, "join", lambda watch, _, made: watch.touch(os.path.abspath(os.fsdecode(made)))),  # noqa: PTH100
        (pathlib.PurePath, "__str__", lambda watch, _, made: watch.touch(os.path.abspath(made))),  # noqa: PTH100
        (pathlib.PurePath, "__fspath__", lambda watch, _, made: watch.touch(os.path.abspath(made))),  # noqa: PTH100
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in fronts]
    for owner, name, tell in fronts:
        setattr(owner, name, _front(getattr(owner, name), tell, watching))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _front(original: Any, tell: Callable[[Told, Any, Any], None], watching: Callable[[], Told | None]) -> Any:
    @functools.wraps(original)
    def front(*args: Any, **kwargs: Any) -> Any:
        watch, made = watching(), None
        if watch is None or kwargs.get("dir_fd") is not None or is_passed_over():
            return original(*args, **kwargs)
        try:
            made = original(*args, **kwargs)
            return made
        finally:
            with ourselves():
                tell(watch, args[0] if args else None, made)

    for collection in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
        if original in collection:
            collection.add(front)
    return front

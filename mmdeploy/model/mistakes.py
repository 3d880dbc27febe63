"""Mistakes in the code that a recipe names whose remedy is known."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path

from mmdeploy.core.errors import StepError, did_you_mean, nearest

#: How like the name of an installed module another has to be, to be taken for a typing error.
_LIKE = 0.8


def remedy(error: BaseException, root: Path) -> str | None:
    """Say what to do about an exception of the user's code; None where that is not known.

    Args:
        error: What it raised.
        root: Folder of the recipe, where its own modules lie.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _of_missing_module(error.name, root)
    if isinstance(error, SystemExit):
        return 'it ends the program: what is for running a file as a script belongs under `if __name__ == "__main__":`'
    if isinstance(error, StopIteration):
        return (
            "a generator ends by `return`; next() raises StopIteration where nothing is left: give it a default, "
            "next(iterator, None)"
        )
    return None


def is_of_user(error: BaseException) -> bool:
    """Say whether code raises an exception of itself: also SystemExit, but not where a signal asks to end."""
    return isinstance(error, Exception) or (isinstance(error, SystemExit) and error.code != signal.SIGTERM)


def cause_of(error: BaseException) -> BaseException:
    """Return what went wrong first: a StopIteration inside of a generator, which Python turns into a RuntimeError."""
    return error.__cause__ if isinstance(error.__cause__, StopIteration) else error


def refuse_arguments(
    call: Callable[..., object], reference: str, given: Mapping[str, object], error: type[StepError]
) -> None:
    """Refuse a callable that cannot be called with what it is given.

    Raises:
        StepError: Of the class ``error``, naming the parameters that have no default.
    """
    with contextlib.suppress(TypeError, ValueError):  # it has no signature that Python can tell
        parameters = inspect.signature(call).parameters.values()
        needed = [
            one.name for one in parameters
            if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            and one.name not in given
        ]  # fmt: skip
        if needed:
            name = reference.rpartition(":")[2]
            raise error(
                f"{reference} needs {', '.join(map(repr, needed))}, and it is called without arguments",
                hint=f"give defaults, or name a function that calls it: def mine(): return {name}(…)",
            )


def names_hint(call: Callable[..., object], given: Collection[str]) -> str:
    """Say which parameters a callable has, where what it is given by name are others.

    Args:
        call: Such as a module's ``forward``.
        given: Names that it is called with.
    """
    with contextlib.suppress(TypeError, ValueError):  # it has no signature that Python can tell
        parameters = inspect.signature(call).parameters.values()
        named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        extra = [name for name in given if name not in named]
        if extra and not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return f"forward has no parameter {extra[0]!r}: {did_you_mean(extra[0], named)}"
        missing = [one.name for one in parameters if one.name in named and one.default is one.empty]
        if missing := [name for name in missing if name not in given]:
            return f"forward needs {', '.join(map(repr, missing))} as well: wire it under the component's inputs"
    return "inputs are passed as keyword arguments: their names are those of forward's parameters"


def _of_missing_module(name: str, root: Path) -> str:
    top = name.partition(".")[0]
    with contextlib.suppress(ImportError, ValueError):
        if top != name and importlib.util.find_spec(top) is not None:
            return f"{top!r} is there without it: look at its spelling, and at the version of {top!r}"
    known = {*metadata.packages_distributions()} | sys.stdlib_module_names
    near = nearest(top, sorted(path.stem for path in root.glob("*.py")))
    near = near or next(iter(difflib.get_close_matches(top, sorted(known), n=1, cutoff=_LIKE)), None)
    guess = f"did you mean {near!r}? otherwise " if near else ""
    return f"{guess}install what provides {top!r} into {sys.prefix}, or have {top}.py in {root}"

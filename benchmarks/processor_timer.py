"""Put into every Python process of a build as its ``sitecustomize`` (see `library_share.py`): who spends the time.

Not to be imported: it sets a timer, and reads its settings from the environment.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import dis
import functools
import linecache
import os
import signal
import time
import types
from types import CodeType, FrameType

EVERY_S = 0.01
LIBRARIES = frozenset(os.environ["LIBRARY_SHARE_NAMES"].split(","))
OURS, RECIPE = os.environ["LIBRARY_SHARE_OURS"], os.environ["LIBRARY_SHARE_RECIPE"]
LEDGER = os.open(os.environ["LIBRARY_SHARE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
LIBRARY, RECIPES, OWN, OTHER = "library", "recipe", "mmdeploy", "other libraries"
_CALLS = ("CALL", "PRECALL", "CALL_FUNCTION_EX")
last, looking = 0.0, False


def look(_: int, frame: FrameType | None) -> None:
    """Charge what was spent since the last look to who is running; what a signal within interrupts is no news."""
    global last, looking
    if looking:
        return
    looking = True
    spent = time.process_time() - last
    while frame is not None and frame.f_back is not None and _instruction(frame) == "RESUME":
        frame = frame.f_back  # it has only begun: the time went to the native code that called it
    owner, place = owner_of(frame)
    if owner == OWN and spent >= 2 * EVERY_S and frame is not None and _package(frame.f_code.co_filename) == OWN:
        owner = LIBRARY if _callee_package(frame) in LIBRARIES else owner
    os.write(LEDGER, f"{owner}\t{spent}\t{place}\n".encode())
    last, looking = time.process_time(), False


def owner_of(frame: FrameType | None) -> tuple[str, str]:
    """Return whose code runs, and mmdeploy's innermost function."""
    owner = other = place = ""
    while frame is not None and not (owner and place):
        found = _package(frame.f_code.co_filename)
        if not owner and found in (LIBRARY, RECIPES, OWN):
            owner = OTHER if found == OWN and other else found
        other = other or (found if not owner else "")
        if found == OWN:
            place = place or f"{frame.f_code.co_filename[len(OURS) :]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return owner or (OTHER if other else OWN), place


@functools.cache
def _package(file: str) -> str:
    """Return whose a file is: empty for Python's own."""
    if file.startswith(RECIPE):
        return RECIPES
    if file.startswith(OURS):
        return OWN
    name = file.rpartition("/site-packages/")[2].partition("/")[0] if "/site-packages/" in file else ""
    return LIBRARY if name in LIBRARIES else name


def _instruction(frame: FrameType) -> str:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]]


def _callee_package(frame: FrameType) -> str:
    """Return the package of the native function whose call a frame has just ended; empty where that is not sure."""
    names = _called(frame.f_code, frame.f_lasti)
    if not names:
        return ""
    scope = {**vars(builtins), **frame.f_globals, **frame.f_locals}
    value = scope.get(names[0])
    for name in names[1:]:
        if isinstance(getattr(type(value), name, None), property):
            return ""
        value = getattr(value, name, None)
    if isinstance(value, types.FunctionType | types.MethodType | None):
        return ""
    of = getattr(value, "__module__", None) or type(getattr(value, "__self__", value)).__module__
    if of == "builtins":  # a method of a type
        of = type(getattr(value, "__self__", value)).__module__
    return str(of).partition(".")[0]


@functools.cache
def _called(code: CodeType, at: int) -> tuple[str, ...]:
    """Return the dotted name that a call instruction calls, in parts; empty where it is no plain name."""
    if dis.opname[code.co_code[at]] not in _CALLS:
        return ()
    first, end, start, stop = list(code.co_positions())[at // 2]
    if first is None or end is None:
        return ()
    lines = [line.encode() for line in linecache.getlines(code.co_filename)[first - 1 : end]]
    if not lines:
        return ()
    lines[-1] = lines[-1][:stop]
    lines[0] = lines[0][start:]
    try:
        node = ast.parse(b"(%s)" % b"".join(lines), mode="eval").body
    except SyntaxError:
        return ()
    node, names = node.func if isinstance(node, ast.Call) else node, []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def begin() -> None:
    """Set the timer, in a forked process anew."""
    global last, looking
    last, looking = time.process_time(), False
    signal.signal(signal.SIGPROF, look)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)


os.register_at_fork(after_in_child=begin)
atexit.register(signal.setitimer, signal.ITIMER_PROF, 0)  # Python's handlers go before the process does
begin()
last = 0.0

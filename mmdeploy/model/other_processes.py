"""Whether another process may read files on behalf of this one: a child, a child of a child, a server that it asks.

The kernel charges a child's use of memory to the parent that waits for it, whoever started it and however. So a process
that has no child and was never charged for one never had any. Where children end without being waited for, since their
signal is ignored, there may have been some.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

#: Of waitid(2): children that end with another signal, too.
_ALL_KINDS = 0x40000000
#: glibc's and musl's ``struct sigaction``: the handler, 128 bytes of mask, the flags.
_ACTION = struct.Struct("P128xi")
_IGNORED, _LEAVES_NO_TRACE = 1, 0x2
#: Audit events (PEP 578) after which another process may work for this one.
EVENTS = ("os.fork", "os.forkpty", "os.posix_spawn", "socket.connect")

_libc = ctypes.CDLL(None)
_may_read = False


def may_read() -> bool:
    """Say whether another process may have read something for this one.

    Once that is so it stays so, here and in processes forked from this one: what a child left running has no parent
    any more that could be asked.
    """
    global _may_read
    # In this order: a child that is waited for meanwhile, by another thread, is charged for by then.
    _may_read = _may_read or _has_children() or _had_children() or _ends_without_trace()
    return _may_read


def note_one() -> None:
    """Note that another process may read for this one from now on."""
    global _may_read
    _may_read = True


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _ALL_KINDS)
    except ChildProcessError:
        return False
    return True


def _had_children() -> bool:
    return any(resource.getrusage(resource.RUSAGE_CHILDREN))


def _ends_without_trace() -> bool:
    action = ctypes.create_string_buffer(4 * _ACTION.size)
    if _libc.sigaction(signal.SIGCHLD, None, action):
        return True
    handler, flags = _ACTION.unpack_from(action)
    return handler == _IGNORED or bool(flags & _LEAVES_NO_TRACE)

"""Ports for servers that tests start by hand."""

import random
import socket
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port of loopback that nothing listens on.

    It is below those that the kernel gives to whoever connects, or asks for any: one of these may be taken by another
    test before the server is there.
    """
    last = int(_RANGE.read_text().split()[0])
    below = random.SystemRandom().sample(range(_FIRST, last), 100) if last > _FIRST + 100 else []
    for port in [*below, 0]:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("no port is free")

"""Imported by the fork server after everything else: tells the garbage collector to leave what is loaded alone.

A collection in a forked step would otherwise visit, and so copy, every page of the libraries that the steps share
(`gc.freeze`, and the note on copy-on-write in Python's documentation of it). Memory that importing them took and
gave back returns to the system.
"""

from __future__ import annotations

import ctypes
import gc

gc.collect()
gc.freeze()
ctypes.CDLL(None).malloc_trim(0)  # glibc

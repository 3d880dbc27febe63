"""Imported by the fork server after everything else: tells the garbage collector to leave what is loaded alone.

A collection in a forked step would otherwise visit, and so copy, every page of the libraries that the steps share
(`gc.freeze`, and the note on copy-on-write in Python's documentation of it). Memory that importing them took and
gave back returns to the system. Where steps export, torchlib's registry is read before, once for all of them.
"""

from __future__ import annotations

import ctypes
import gc
import sys

if "torch.onnx._internal.exporter._torchlib.ops" in sys.modules:
    from mmdeploy.export import onnx_dynamo, torchlib

    torchlib.warm(onnx_dynamo.Options().opset)
gc.collect()
gc.freeze()
ctypes.CDLL(None).malloc_trim(0)  # glibc

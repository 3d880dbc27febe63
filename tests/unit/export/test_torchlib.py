"""Torchlib's registry is read once, and no export sees what another has added to it."""

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from mmdeploy.export import torchlib

OPSET = 20


def forms(registry):
    return {target: [form.onnx_function for form in found] for target, found in registry.functions.items()}


def test_the_registry_that_is_kept_is_the_librarys_and_is_given_as_copies(monkeypatch):
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", ONNXRegistry.__dict__["from_torchlib"])  # put back at the end
    torchlib.read_once()
    kept = ONNXRegistry.from_torchlib.__func__
    torchlib.read_once()
    assert ONNXRegistry.from_torchlib.__func__ is kept
    torchlib.warm(OPSET)
    reads = kept._read.cache_info().misses

    first = ONNXRegistry().from_torchlib(opset_version=OPSET)
    assert first.opset_version == OPSET
    assert forms(first) == forms(kept.read(ONNXRegistry, opset_version=OPSET))
    first.register_op(torch.ops.aten.relu.default, lambda x: x)
    second = ONNXRegistry().from_torchlib(opset_version=OPSET)
    assert len(first.functions["aten::relu"]) == len(second.functions["aten::relu"]) + 1
    assert kept._read.cache_info().misses == reads


def test_operators_that_a_library_brings_later_are_known(monkeypatch):
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", ONNXRegistry.__dict__["from_torchlib"])
    torchlib.read_once()
    kept = ONNXRegistry.from_torchlib.__func__
    brought = [frozenset(), frozenset(), frozenset({"torchvision"})]
    monkeypatch.setattr(torchlib, "_brought", lambda: brought[0])
    misses = []
    while brought:
        ONNXRegistry.from_torchlib(opset_version=OPSET)
        misses.append(kept._read.cache_info().misses)
        brought.pop(0)
    assert misses[0] == misses[1] == misses[2] - 1

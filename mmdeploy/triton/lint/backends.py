"""Rules on what the native backends of Triton's containers make of a configuration that loads here."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.core.errors import EngineError
from mmdeploy.core.target import this_hardware
from mmdeploy.engines import aot_package
from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories
from mmdeploy.triton.shell_paths import survives_shell

#: Backends that are Python-based, always or in the wheel's server.
SHELL_BACKENDS = ("python", "onnxruntime", "openvino", "tensorrt_rtx", aot_package.BACKEND)


def optional_input(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find optional inputs that the native backend refuses, though a Python-based one takes them."""
    config = model.parsed
    for index, tensor in enumerate(config.input):
        if not tensor.optional:
            continue
        if model.backend == "tensorrt":
            yield Hit(
                f"optional input {tensor.name!r}: the native tensorrt backend has none",
                "make it required",
                f"input[{index}].optional",
            )
        elif model.backend == "onnxruntime" and config.max_batch_size:
            yield Hit(
                f"optional input {tensor.name!r}: the native onnxruntime backend takes one only with "
                "max_batch_size: 0 and as an overridable initializer",
                "make it required",
                f"input[{index}].optional",
            )


def graph_level(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find quantized ONNX models served without the fusions that make them fast.

    Levels are onnxruntime_backend's: -1 basic, 1 extended, 2 none, 0 all.
    """
    level = model.parsed.optimization.graph.level
    if model.backend != "onnxruntime" or model.filename is None or level not in (-1, 2):
        return
    for version in model.served_versions:
        path = model.versions[version] / model.filename
        if path.is_file() and b"DequantizeLinear" in path.read_bytes():
            what = "no optimizations" if level == 2 else "basic optimizations only"
            yield Hit(
                f"optimization.graph.level {level} means {what}, and {path.name} is quantized (Q/DQ): "
                "it runs slower than FP32",
                "remove it, or use level 1",
                "optimization.graph.level",
            )


def unsafe_name(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find names that reach a shell and do not survive it: the server never becomes ready, or runs a part of them.

    The python backend starts its stubs through one, and with it every Python-based backend, such as those that stand in
    for native ones where there is only the wheel's server.
    """
    if model.backend not in SHELL_BACKENDS:
        return
    filename = model.parsed.default_model_filename
    for what, name, at in (("name", model.name, ""), ("file name", filename, "default_model_filename")):
        if name and not survives_shell(name):
            yield Hit(
                f"a Python-based backend starts its stub through a shell, which the {what} {name!r} does not survive",
                "use letters, digits, '.', '_' and '-'",
                at,
            )


def processor(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find machine code that this machine's processor cannot run: the backend refuses to load it."""
    if model.backend != aot_package.BACKEND:
        return
    for version in model.served_versions:
        path = model.versions[version] / (model.filename or aot_package.FILENAME)
        try:
            missing = aot_package.lacking(path, this_hardware().isa) if path.is_file() else ()
        except EngineError as error:
            yield Hit(error.message, "build the release again")
            continue
        if missing:
            yield Hit(
                f"{path.name} is machine code for a processor with {', '.join(missing)}, and this one has not: it will "
                "not load here",
                "serve it on the kind of machine that built it, or build it here",
            )

"""Holds a repository against a release image of Triton: would that image serve it, and serve it the same?

An error is what the image's backends refuse. A warning is what cannot be known from here, what must be added to the
image, and what native backends do not do that mmdeploy's stand-ins for them do here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmdeploy.packaging.containers import Container, backends, containers, numbers
from mmdeploy.triton.config import INPUT_RULES_PARAMETER
from mmdeploy.triton.lint.finding import Finding, Severity
from mmdeploy.triton.lint.reading import Model, read
from mmdeploy.triton.repository import resolve

REQUIREMENTS = "requirements.txt"
#: A plan's first bytes, and where the version of TensorRT stands in it (trtexec --getPlanVersionOnly).
_PLAN_TAG, _RTX_TAG, _PLAN_VERSION, _PLAN_HEAD = b"ftrt", b"vtrt", slice(24, 28), 28
_IR_WRITER = re.compile(rb'<Runtime_version value="(\d+\.\d+\.\d+)')
_STAND_INS = ("onnxruntime", "openvino")
#: What to do about a backend that is mmdeploy's alone.
_OTHERWISE = {
    "aot_inductor": "build the component with an engine of one of these; the image's pytorch backend (torch_aoti, a "
    "beta) loads packages of its own torch, named by position and without a batch dimension, not those of a release",
}


class _Hit(NamedTuple):
    rule: str
    severity: Severity
    file: Path
    message: str
    remedy: str


def unfit(path: Path, container: Container) -> tuple[Finding, ...]:
    """Check what one server would load from a path against an image.

    Args:
        path: What `mmdeploy serve` takes.
        container: The image.

    Returns:
        Every finding; none where the image serves it as it was served here.

    Raises:
        UsageError: If there is no repository at ``path``.
    """
    found: list[Finding] = []
    for repository in resolve(path):
        for model in read([repository]).models:
            if model.backend and not model.is_ensemble:
                found += [_finding(model, hit) for hit in _of_model(model, container)]
        found += [_finding(None, hit) for hit in _packages(repository, container)]
    return tuple(found)


def _finding(model: Model | None, hit: _Hit) -> Finding:
    line = model.line("backend") if model is not None and hit.file == model.config_path else None
    return Finding(hit.rule, hit.severity, model.name if model else "", hit.file, line, hit.message, hit.remedy)


def _of_model(model: Model, container: Container) -> Iterator[_Hit]:
    if model.backend not in backends():
        yield _Hit(
            "container-backend",
            Severity.ERROR,
            model.config_path,
            f"backend {model.backend!r} is not in {container.tag}, which has {', '.join(backends())}",
            _OTHERWISE.get(model.backend, "build the component with an engine of one of these"),
        )
        return
    checks = {"onnxruntime": _onnx, "tensorrt": _plan, "openvino": _ir}
    for version in model.served_versions:
        file = model.versions[version] / (model.filename or "")
        if model.backend in checks and file.is_file():
            yield from checks[model.backend](file, container)
    if model.backend in (*_STAND_INS, "tensorrt"):
        yield from _unchecked(model, container)


def _onnx(file: Path, container: Container) -> Iterator[_Hit]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return  # what cannot be read here is told by other rules
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if container.onnx_opset is None or container.onnx_ir is None or container.onnxruntime is None:
        yield _unknown("ONNX Runtime", file, container, f"the graph has opset {opset}")
        return
    for what, have, most in (("opset", opset, container.onnx_opset), ("IR", model.ir_version, container.onnx_ir)):
        if have is not None and have > most:
            yield _Hit(
                "container-opset",
                Severity.ERROR,
                file,
                f"the graph has {what} {have}, ONNX Runtime {container.onnxruntime} of {container.tag} loads up to "
                f"{most}",
                f"export with an opset of at most {container.onnx_opset}, or take a newer image",
            )


def _plan(file: Path, container: Container) -> Iterator[_Hit]:
    with file.open("rb") as stream:
        head = stream.read(_PLAN_HEAD)
    if head.startswith(_RTX_TAG):
        yield _Hit(
            "container-engine",
            Severity.ERROR,
            file,
            f"the engine was built by TensorRT-RTX, {container.tag} has TensorRT",
            "build it with the engine tensorrt",
        )
        return
    if len(head) < _PLAN_HEAD or not head.startswith(_PLAN_TAG):
        yield _Hit(
            "container-engine",
            Severity.WARNING,
            file,
            "the version of TensorRT that built this engine cannot be read from it",
            f"build it with the TensorRT of the image, {container.tensorrt or 'which is not known'}",
        )
        return
    built = ".".join(str(number) for number in head[_PLAN_VERSION])
    if container.tensorrt is None:
        yield _unknown("TensorRT", file, container, f"the engine was built by {built}")
    elif built != container.tensorrt:
        mine, theirs = numbers(built), numbers(container.tensorrt)
        may_run = mine[0] == theirs[0] and mine < theirs
        yield _Hit(
            "container-engine",
            Severity.WARNING if may_run else Severity.ERROR,
            file,
            f"the engine was built by TensorRT {built}, {container.tag} has {container.tensorrt}"
            + (": it runs only if it was built version_compatible" if may_run else ""),
            f"build it with TensorRT {container.tensorrt}, or take the image that has {built}",
        )


def _ir(file: Path, container: Container) -> Iterator[_Hit]:
    written = _IR_WRITER.search(file.read_bytes())
    by = written[1].decode() if written else None
    if container.openvino is None:
        yield _unknown("OpenVINO", file, container, f"the model was written by {by or 'a version that it hides'}")
    elif by is not None and numbers(by) > numbers(container.openvino):
        yield _Hit(
            "container-openvino",
            Severity.WARNING,
            file,
            f"the model was written by OpenVINO {by}, {container.tag} has {container.openvino}: an older one need not "
            "read what a newer one wrote",
            f"try it in the image, or build with openvino=={container.openvino}",
        )


def _unknown(what: str, file: Path, container: Container, have: str) -> _Hit:
    """Say that nothing can be held against a value that is not in the table."""
    attribute = what.lower().replace(" ", "")
    before = [one for one in containers().values() if one.release < container.release and getattr(one, attribute)]
    last = max(before, key=lambda one: one.release, default=None)
    told = f"; {last.tag} has {getattr(last, attribute)}" if last else ""
    if last and what == "ONNX Runtime":
        told += f", which loads up to opset {last.onnx_opset}"
    return _Hit(
        "container-unknown",
        Severity.WARNING,
        file,
        f"which {what} {container.tag} has is not in the table, so this is not checked: {have}{told}",
        f"look into the image, or take {last.tag}" if last else "look into the image",
    )


def _unchecked(model: Model, container: Container) -> Iterator[_Hit]:
    """Find checks of requests that only mmdeploy's backends make: a native one does not know of them."""
    parameters = model.parsed.parameters
    if INPUT_RULES_PARAMETER not in parameters:
        return
    try:
        rules = json.loads(parameters[INPUT_RULES_PARAMETER].string_value)
    except ValueError:
        return
    guarded = _guarded(model)
    lost = [
        name
        for name, rule in sorted(rules.items())
        if isinstance(rule, dict) and rule.keys() - {"tensor"} and name not in guarded
    ]
    if lost:
        yield _Hit(
            "container-checks",
            Severity.WARNING,
            model.config_path,
            f"what requests must keep ({', '.join(lost)}) is checked by mmdeploy's backend here, and by nobody in "
            f"{container.tag}: its {model.backend} backend is the native one, and answers NaN and values out of range",
            "say serving.guard: graph (onnxruntime on a CPU), or check in front of the server",
        )


def _guarded(model: Model) -> set[str]:
    """Return the inputs whose checks are written into the ONNX graph."""
    import onnx
    from google.protobuf.message import DecodeError

    names: set[str] = set()
    for version in model.served_versions if model.backend == "onnxruntime" else ():
        try:
            graph = onnx.load(model.versions[version] / (model.filename or ""), load_external_data=False).graph
        except (DecodeError, OSError, ValueError):
            continue
        names |= {node.output[0].split("/")[1] for node in graph.node if node.output[0].startswith("guard/")}
    return names


def _packages(repository: Path, container: Container) -> Iterator[_Hit]:
    file = repository / REQUIREMENTS
    if file.is_file():
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        needed = [line for line in lines if line and not line.startswith("#")]
        yield _Hit(
            "container-packages",
            Severity.WARNING,
            file,
            f"steps in Python need what {container.tag} need not hold: {', '.join(needed)}",
            f"install it in the image, for Python {container.python or 'of the image'}: the Containerfile of "
            "`mmdeploy package` does",
        )

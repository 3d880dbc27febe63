"""``torch.export`` and the dynamo exporter, quiet, with their failures told in terms of the user's code."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ExportError, MmdeployError
from mmdeploy.core.sizes import Size, padding_advised
from mmdeploy.export import masked_rows, naming, recurrent, torchlib, varying
from mmdeploy.model.sources import describe, user_location
from mmdeploy.model.traced import WRAPPER, Axes, dynamic_shapes, in_order, quiet
from mmdeploy.model.user_code import is_user_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.core.contracts import Array

logger = logging.getLogger(__name__)

#: What torch.onnx raises for an operator that it has no translation of at all.
_NO_FORM = "DispatchError"
#: Characters of a reason that are told: some end in a whole signature.
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        component: Name of the component, for messages.
        module: The module, in eval mode.
        feed: Example inputs in the order that the graph shall have, batch (2 or more) on axis 0.
        outputs: Names of the outputs.
        axes: Axes of each input that may vary besides axis 0, and what is known of their sizes; in the order of feed.
        opset: Version of ONNX's operator set.
        root: Folder of the recipe, for file names in messages.
    """

    component: str
    module: nn.Module
    feed: Mapping[str, Array]
    outputs: tuple[str, ...]
    axes: Axes
    opset: int
    root: Path


@dataclass(frozen=True)
class Exported:
    """A module as a graph.

    Attributes:
        proto: The ``onnx.ModelProto``; its batch dimension is called ``batch``, other axes as their sizes are.
        sizes: The sizes of axes that vary, as far as they are known: by input and axis, the batch being axis 0.
        bounded: Whether each axis that varies has bounds.
    """

    proto: Any
    sizes: Mapping[str, Mapping[int, Size]]
    bounded: bool


def to_onnx(request: Request) -> Exported:
    """Write the module as an ONNX graph.

    Raises:
        ExportError: Naming the operator, and the line of the user's model.
    """
    import numpy as np
    import torch

    values = tuple(torch.from_numpy(np.array(array)) for array in request.feed.values())
    with torch.no_grad():
        wrapper = in_order(request.module, tuple(request.feed), request.outputs)
        # At one length they are unrolled, as ever: engines know what comes of that.
        whole = request.module if any(request.axes.values()) else None
        with quiet(), recurrent.kept_whole(whole, request.component) as translations:
            program = _traced(wrapper, values, request)
            masked_rows.zero_masked_rows(program)
            proto = _converted(program, request, translations)
    naming.name_ends(proto, tuple(request.feed), request.outputs)
    _name_batch(proto)
    sizes = varying.found_sizes(program, request.axes, request.component)
    varying.name_symbols(proto, program, request.axes, sizes)
    bounded = all(
        axis in sizes.get(name, {}) and sizes[name][axis].bounded
        for name, axes in request.axes.items()
        for axis in axes
    )
    return Exported(proto, sizes, bounded)


def _traced(wrapper: nn.Module, values: tuple[Tensor, ...], request: Request) -> Any:
    import torch

    shapes = dynamic_shapes(request.axes, tuple(request.feed))
    try:
        return torch.export.export(wrapper, values, dynamic_shapes=shapes, strict=False)
    except MmdeployError:
        raise
    except Exception as cause:
        text = str(cause)
        if "Constraints violated" in text or "marked batch as dynamic" in text:
            line = _specializing_line(wrapper, values, request)
            if (fixed := varying.fixed_axis(text, request.feed)) is not None:
                raise _one_length(request, *fixed, line) from cause
            raise ExportError(
                f"{request.component}: the module works only at the sizes it was traced with"
                f"{f', because of {line}' if line else ''}: {_constraint(text)}",
                hint="take sizes from the tensor (x.shape[0]) and let -1 or flatten/unflatten work them out; "
                "no loop over the batch",
            ) from cause
        raise _trace_error(cause, request) from cause


def _one_length(request: Request, name: str, axis: int, line: str | None) -> ExportError:
    size, length = request.axes[name][axis], request.feed[name].shape[axis]
    called = f"of {size.name!r} " if size is not None else ""
    return ExportError(
        f"{request.component}: the module works only at the length {called}that it was traced with, {length} (axis "
        f"{axis - 1} of input {name!r}){f', because of {line}' if line else ''}",
        hint="take lengths from the tensor (x.shape[1]), and loop over none of them; or "
        + (
            padding_advised(size)
            if size is not None and size.bounded
            else f"let clients send one length: write {length} in the shape"
        ),
    )


def _trace_error(cause: Exception, request: Request) -> ExportError:
    if "data-dependent" in str(cause):
        where = user_location(cause, request.root)
        line = _source_line(cause)
        return ExportError(
            f"{request.component}: torch.export cannot follow the module: what it does next depends on the "
            f"values of a tensor, at {where or 'an unknown line'}{f': {line}' if line else ''}",
            hint="compute both sides and choose with torch.where, or keep the decision out of the component",
        )
    return ExportError(
        f"{request.component}: torch.export failed in the module: {describe(_root_cause(cause), request.root)}",
        hint="only operations on tensors can be exported: no NumPy, no .item(), no printing of values"
        + "".join(f"; where it takes one length only, {padding_advised(size)}" for size in _bounded(request)),
    )


def _bounded(request: Request) -> list[Size]:
    """Return the sizes of the recipe that its inputs have, each once."""
    sizes = (size for axes in request.axes.values() for size in axes.values())
    return list({size.name: size for size in sizes if size is not None and size.bounded and not size.made}.values())


def _source_line(cause: Exception) -> str:
    own = [frame for frame in traceback.extract_tb(cause.__traceback__) if is_user_file(frame.filename)]
    return (own[-1].line or "").strip() if own else ""


def _constraint(text: str) -> str:
    lines = [line.strip(" -") for line in text.splitlines() if line.startswith("  - ")]
    return lines[0].split(". ")[0] if lines else text.splitlines()[0]


def _specializing_line(wrapper: nn.Module, values: tuple[Tensor, ...], request: Request) -> str | None:
    """Trace once more in the mode that records where a size became fixed."""
    import torch

    try:
        from torch._logging.structured import INTERN_TABLE

        draft = torch.export.draft_export(
            wrapper, values, dynamic_shapes=dynamic_shapes(request.axes, tuple(request.feed))
        )
        report: Any = draft._report  # type: ignore[attr-defined]
        names = {number: name for name, number in INTERN_TABLE.items()}
        for failure in report.failures:
            frames = [
                (names.get(int(frame["filename"]), ""), frame["line"]) for frame in failure.data.get("user_stack", ())
            ]
            own = [(file, line) for file, line in frames if is_user_file(file)]
            if own:
                path = Path(own[-1][0])
                inside = path.is_relative_to(request.root.resolve())
                return f"{path.relative_to(request.root.resolve()) if inside else path}:{own[-1][1]}"
    except Exception as cause:  # noqa: BLE001 - a private report: without it the message lacks the line only
        logger.debug("no report from draft_export: %s", cause)
    return None


def _converted(program: Any, request: Request, translations: dict[Any, Any]) -> Any:
    import torch

    torchlib.read_once()
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=request.opset,
            custom_translation_table=translations or None,
            # Names that no tensor inside has: the exporter does not look whether `embedding` is one.
            input_names=[f"{WRAPPER}_input_{index}" for index in range(len(request.feed))],
            output_names=[f"{WRAPPER}_output_{index}" for index in range(len(request.outputs))],
        )
        assert exported is not None
        return exported.model_proto
    except Exception as cause:
        operator, line = _failing_operator(cause)
        reason = _root_cause(cause)
        if operator is None:
            told = f"{_failing_node(cause)}{describe(reason, request.root)}"
            hint = "".join(f"where it takes one length only, {padding_advised(size)}" for size in _bounded(request)[:1])
            raise ExportError(f"{request.component}: torch.onnx failed: {told}", hint=hint or None) from cause
        used = f"{operator}{f', used at {_shown(line, request.root)}' if line else ''}"
        if type(reason).__name__ == _NO_FORM:
            raise ExportError(
                f"{request.component}: torch.onnx has no ONNX form of the operator {used}",
                hint="write it with operators that ONNX has, or leave that part outside the component",
            ) from cause
        said = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise ExportError(
            f"{request.component}: torch.onnx cannot write the operator {used}: {said[:_LONGEST_REASON]}",
            hint="it can write other forms of that operator: change the call as the reason says",
        ) from cause


def _failing_operator(error: BaseException) -> tuple[str | None, str | None]:
    """Return the operator that was being translated, and ``file:line`` of the user's code that called it."""
    from torch import fx

    found: fx.Node | None = None
    current: BaseException | None = error
    while current is not None:
        for frame, _ in traceback.walk_tb(current.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, fx.Node) and node.op == "call_function":
                found = node
        current = current.__cause__
    if found is None:
        return None, None
    calls = re.findall(r'File "([^"]+)", line (\d+)', found.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in calls if is_user_file(file)]
    return str(found.target), own[-1] if own else None


def _failing_node(error: BaseException | None) -> str:
    """Return what torch.onnx was doing to which node, where one of the causes says so: its root cause does not."""
    while error is not None:
        if " for node " in (said := str(error)):
            return f"{said.splitlines()[0][:_LONGEST_REASON]}: "
        error = error.__cause__
    return ""


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _shown(location: str, root: Path) -> str:
    path, _, line = location.rpartition(":")
    inside = Path(path).is_relative_to(root.resolve())
    return f"{Path(path).relative_to(root.resolve()) if inside else path}:{line}"


def _name_batch(proto: Any) -> None:
    """Call the first axis of the inputs ``batch`` wherever it occurs, in expressions too."""
    graph = proto.graph
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    if len(symbols) != 1:
        return
    word = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = word.sub("batch", dim.dim_param)

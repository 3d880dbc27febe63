"""Names for what a model leaves without one: components, tensors, sizes."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from mmdeploy.scaffold.calls import Call, Key


def component_names(calls: Sequence[Call], sources: Mapping[Key, str]) -> list[str]:
    """Name components after their modules; one module at several places also after what it reads."""
    plain = [_name_of(call) for call in calls]
    often = {name for name, count in Counter(plain).items() if count > 1}
    found = list[str]()
    for call, name in zip(calls, plain, strict=True):
        read = [sources[key] for key in call.inputs.values() if key in sources]
        told = f"{name}_{read[0]}" if name in often and read else name
        found.append(unused(told, found))
    return found


def _name_of(call: Call) -> str:
    last = call.path.rpartition(".")[2]
    if last and not last.isdigit():
        return last
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(call.module).__name__)
    return words.lower().strip("_") or "part"


def unused(name: str, taken: Collection[object]) -> str:
    """Return a name that is not taken, with a number behind it where it must be."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


def key_names(call: Call) -> dict[str, str]:
    """Return what forward calls the tensors that it returns, where its last line says a name for each."""
    if call.returned not in ("tensor", "tuple") or type(call.module).__module__.startswith("torch."):
        return {}
    names = _returned_names(call)
    if len(names) != len(call.outputs) or len({*names, *call.inputs}) != len(names) + len(call.inputs):
        return {}
    return {key: name for key, name in zip(call.outputs, names, strict=True) if key.startswith("output")}


def _returned_names(call: Call) -> list[str]:
    with contextlib.suppress(OSError, TypeError, SyntaxError, ValueError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(call.module).forward)))
        returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
        last = max(returns, key=lambda node: node.lineno).value
        parts = last.elts if isinstance(last, ast.Tuple) else [last]
        if all(isinstance(part, ast.Name) for part in parts):
            return [part.id for part in parts if isinstance(part, ast.Name)]
    return []


def identifier(text: str) -> str:
    """Return text as a name that Triton and YAML take."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"

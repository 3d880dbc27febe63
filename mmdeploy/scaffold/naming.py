"""Names for what a model leaves without one: components, tensors, sizes."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from mmdeploy.recipe.schema import NAME_PATTERN
from mmdeploy.scaffold.calls import Call, Key

#: Letters that are not made of another one and a mark.
_SPELT = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "đ": "d", "ł": "l", "ı": "i"}
)
#: Characters of a name before a number is put behind it.
_LONGEST = 100


def component_names(calls: Sequence[Call], sources: Mapping[Key, str]) -> list[str]:
    """Name components after their modules; one module at several places also after what it reads."""
    plain = [_name_of(call) for call in calls]
    often = {name for name, count in Counter(plain).items() if count > 1}
    found = list[str]()
    for call, name in zip(calls, plain, strict=True):
        read = [sources[key] for key in call.inputs.values() if key in sources]
        told = accepted(f"{name}_{read[0]}", name) if name in often and read else name
        found.append(unused(told, found, folded=True))
    return found


def _name_of(call: Call) -> str:
    last = call.path.rpartition(".")[2]
    if not last.isdigit() and (name := accepted(last)):
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(call.module).__name__)
    return accepted(words.lower().strip("_"), "part")


def accepted(name: str, otherwise: str = "") -> str:
    """Return a name as a component may have it: it is a folder of Triton's, and part of URLs.

    Args:
        name: As it is elsewhere.
        otherwise: What to return where nothing of it is left.
    """
    if re.fullmatch(NAME_PATTERN, name) and len(name) <= _LONGEST:
        return name
    return plain(name)[:_LONGEST].rstrip("_") or otherwise


def plain(text: str) -> str:
    """Return what is left of text in ASCII's letters, digits and underscores: größe becomes grosse."""
    letters = unicodedata.normalize("NFKD", text.translate(_SPELT))
    return re.sub(r"[^A-Za-z0-9_]+", "_", re.sub(r"[\u0300-\u036f]", "", letters)).strip("_")


def of_size(name: str) -> str:
    """Return what of an input's name a size can be named after."""
    word = plain(name)[: _LONGEST // 2]
    return word if word.isidentifier() else f"input_{word}".rstrip("_")


def unused(name: str, taken: Collection[str], *, folded: bool = False) -> str:
    """Return a name that is not taken, with a number behind it where it must be.

    Args:
        name: Wanted.
        taken: Others.
        folded: Whether one that differs in case alone is taken, too: one folder on some file systems.
    """
    number, found = 2, name
    known = {one.casefold() for one in taken} if folded else taken
    while (found.casefold() if folded else found) in known:
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
    return plain(text)[:_LONGEST] or "model"

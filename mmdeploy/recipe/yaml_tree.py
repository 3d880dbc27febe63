"""YAML as a tree of values that know their line.

Scalars are read by the core schema of YAML 1.2 (spec section 10.3), as editors and JSON do: ``yes``, ``no``,
``on`` and ``off`` are strings and no booleans, ``010`` is ten, ``1e-3`` is a number, ``12:30`` and dates are
strings. Anchors, aliases and merge keys work. A key written twice is an error.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmdeploy.core.errors import Problem, RecipeError

Scalar = str | int | float | bool | None
Keys = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SHOWN_CHARACTERS = 40


@dataclass
class Node:
    """A value, and where it was written.

    Attributes:
        value: A scalar, a list of nodes, or nodes by key.
        origin: Such as ``recipe.yaml:31`` or ``--set seed=1``.
        line: Line in the file from 1; large and in order for what did not come from the file.
        taken: By key, the nulls that took away what stood here: the place to name where it is missed.
    """

    value: Scalar | list[Node] | dict[str, Node]
    origin: str
    line: int
    taken: dict[str, Node] = field(default_factory=dict, repr=False, compare=False)

    def child(self, key: str | int) -> Node | None:
        """Return the value under a key or an index; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def at(self, path: Keys) -> Node | None:
        """Return the value at a path; None where there is none."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node else None
        return node

    def closest(self, path: Keys) -> Node:
        """Return the value at a path; where it is missing, what took it away, or the innermost one around it."""
        node = self
        for key in path:
            found = node.child(key)
            if found is None:
                return node.taken.get(str(key), node)
            node = found
        return node

    def plain(self) -> Any:
        """Return the value as JSON-able Python."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def where(node: Node, path: Keys) -> str:
    """Say where a value is: ``recipe.yaml:31 components.fusion.quantize``."""
    place = dotted(path)
    return node.origin if node.origin.startswith(f"--set {place}=") else f"{node.origin} {place}".rstrip()


def dotted(path: Keys) -> str:
    """Write a path as ``--set`` takes it: ``gates.0.max_drop``."""
    return ".".join(str(key) for key in path)


class _Core(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes with the scalar types of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


for _kind, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Core.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _first)


class _Writer(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 takes for other types, as PyYAML does, and those that the core schema does."""


for _begin, _resolvers in _Core.yaml_implicit_resolvers.items():
    for _tag, _regular in _resolvers:
        _Writer.add_implicit_resolver(_tag, _regular, [_begin])


def text_of(value: Any, **style: Any) -> str:
    """Write a value as YAML that is read here as the same value.

    Args:
        value: Mappings, sequences and scalars.
        style: As `yaml.dump` takes it.
    """
    text: str = yaml.dump(value, Dumper=_Writer, sort_keys=False, **style)
    return text


def tree_from_file(path: Path) -> tuple[bytes, Node, list[Problem]]:
    """Read a YAML file.

    Returns:
        The file's bytes, the tree, and what is wrong with it that does not keep the rest from being read,
        such as keys written twice.

    Raises:
        RecipeError: If the file cannot be read or is not YAML with a mapping at the top.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the recipe as UTF-8 text"
        raise _refusal(f"{path}:{line}", message) from error
    return content, *tree_from_text(text, str(path))


def tree_from_text(text: str, name: str) -> tuple[Node, list[Problem]]:
    """Read YAML text; ``name`` stands for the file in messages. Otherwise as `tree_from_file`."""
    document = _compose(text, name)
    if document is None:
        raise _refusal(name, "is empty; a recipe is a mapping that starts with schema_version, name and target")
    reader = _Reader(name)
    tree = reader.node(document, (), document.start_mark.line + 1)
    if not isinstance(tree.value, dict):
        found = "a list" if isinstance(tree.value, list) else "a single value"
        raise _refusal(where(tree, ()), f"the top of a recipe must be a mapping (key: value), not {found}")
    return tree, reader.problems


def value_from_text(text: str, origin: str, line: int) -> Node:
    """Read one YAML value that does not come from a file.

    Args:
        text: The YAML.
        origin: Where it comes from, such as ``--set seed=1``.
        line: Its place in the order of problems.

    Raises:
        RecipeError: If it is not YAML.
    """
    document = _compose(text, origin)
    if document is None:
        return Node(None, origin, line)
    reader = _Reader(origin, line)
    node = reader.node(document, (), line)
    if reader.problems:
        raise RecipeError(reader.problems)
    return node


class _Reader:
    """Turns composed nodes into ours, collecting what is wrong."""

    def __init__(self, name: str, fixed_line: int | None = None) -> None:
        self._name = name
        self._fixed_line = fixed_line
        self._count = 0
        self._entered: list[yaml.Node] = []
        self.problems: list[Problem] = []

    def node(self, node: yaml.Node, path: Keys, line: int) -> Node:
        """Convert a node; ``line`` is that of its key, where it has one."""
        ours = self._made(None, line)
        with self._inside(node, ours, path):
            if isinstance(node, yaml.MappingNode):
                entries = self._entries(node, ours, path)
                ours.value = {key: self.node(value, (*path, key), at) for key, (value, at) in entries.items()}
            elif isinstance(node, yaml.SequenceNode):
                ours.value = [
                    self.node(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)
                ]
            else:
                ours.value = self._scalar(node, path)
        return ours

    @contextlib.contextmanager
    def _inside(self, node: yaml.Node, ours: Node, path: Keys) -> Iterator[None]:
        """Count a node, and refuse one that holds itself or lies too deep."""
        self._count += 1
        if self._count > MAX_NODES:
            raise _refusal(where(ours, ()), f"more than {MAX_NODES} values with aliases expanded")
        if any(node is outer for outer in self._entered):
            raise _refusal(where(ours, path[:4]), "an alias stands inside its own anchor")
        if len(self._entered) > MAX_DEPTH:
            raise _refusal(where(ours, path[:4]), f"more than {MAX_DEPTH} levels deep")
        self._entered.append(node)
        yield
        self._entered.pop()

    def _entries(self, mapping: yaml.MappingNode, ours: Node, path: Keys) -> dict[str, tuple[yaml.Node, int]]:
        """Return value and line by key; merged keys count where the mapping has none of its own."""
        own: dict[str, tuple[yaml.Node, int]] = {}
        merged: dict[str, tuple[yaml.Node, int]] = {}
        for key, value in mapping.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self._merged(source, ours, path) | merged
            elif not isinstance(key, yaml.ScalarNode):
                self._complain(key, path, "a key must be a single word, not a list or a mapping")
            elif key.value in own:
                first = own[key.value][1]
                self._complain(key, (*path, key.value), f"the key is written twice; first in line {first}")
            else:
                own[key.value] = (value, line)
        return merged | own

    def _merged(self, source: yaml.Node, ours: Node, path: Keys) -> dict[str, tuple[yaml.Node, int]]:
        if not isinstance(source, yaml.MappingNode):
            self._complain(source, path, "'<<' merges mappings: give it an alias of one")
            return {}
        with self._inside(source, ours, path):
            return self._entries(source, ours, path)

    def _scalar(self, node: yaml.Node, path: Keys) -> Scalar:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    number = int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
                    if abs(number) < 1 << 64:
                        return number
                case "float":
                    real = float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
                    if math.isfinite(real):
                        return real
                case "str" | "merge":
                    return text
                case _:
                    self._complain(node, path, f"the tag {node.tag!r} is not accepted: write a plain value")
                    return None
        except (KeyError, ValueError):
            self._complain(node, path, f"{shown!r} does not fit its tag !!{kind}")
            return None
        self._complain(node, path, f"the number {shown} is too large or no number")
        return None

    def _made(self, value: Scalar, line: int) -> Node:
        if self._fixed_line is not None:
            return Node(value, self._name, self._fixed_line)
        return Node(value, f"{self._name}:{line}", line)

    def _complain(self, node: yaml.Node, path: Keys, message: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(where(self._made(None, line), path), message))


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise _refusal(str(path), "is a folder; name the recipe's YAML file in it")
        if path.stat().st_size > MAX_BYTES:
            raise _refusal(str(path), f"has {path.stat().st_size} bytes; a recipe is a YAML file of a few kilobytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _refusal(str(path), _no_file(path)) from error
    except OSError as error:
        raise _refusal(str(path), f"cannot be read: {error.strerror}") from error


def _no_file(path: Path) -> str:
    from mmdeploy.core.errors import nearest

    try:
        beside = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return f"no such file, and no folder {path.parent}"
    guess = nearest(path.name, beside)
    if guess:
        return f"no such file; did you mean {str(path.with_name(guess))!r}?"
    return "no such file" + (f"; YAML files there: {', '.join(beside)}" if beside else "")


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        _refuse_deep_nesting(text, name)
        return yaml.compose(text, Loader=_Core)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            raise _refusal(name, f"not YAML: {_reason(error)}") from error
        line = "".join(text.splitlines()[mark.line : mark.line + 1])
        hint = "; indent with spaces, not tabs" if line[: mark.column + 1].endswith("\t") else ""
        raise _refusal(f"{name}:{mark.line + 1}:{mark.column + 1}", f"not YAML: {_reason(error)}{hint}") from error
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, int(error.position)) + 1
        message = f"not YAML: character #x{error.character:04x} is not allowed"
        raise _refusal(f"{name}:{line_number}", message) from error
    except RecursionError as error:
        raise _refusal(name, f"more than {MAX_DEPTH} levels deep") from error


def _refuse_deep_nesting(text: str, name: str) -> None:
    """Stop before composing, which recurses in C: 40000 opening brackets would crash the interpreter.

    libyaml from 0.2.6 on counts brackets while it looks ahead, and may refuse first, in words of its own. PyYAML's
    parser in Python has no such limit, so what failed is parsed by that one once more: too deep, or something else?
    """
    try:
        _count_levels(text, name, _Core)
    except (yaml.YAMLError, RecursionError):
        if sum(text.count(bracket) for bracket in "[{") > MAX_DEPTH:
            with contextlib.suppress(yaml.YAMLError):
                _count_levels(text, name, yaml.SafeLoader)
        raise


def _count_levels(text: str, name: str, loader: type[yaml.SafeLoader]) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise _refusal(f"{name}:{line}", f"more than {MAX_DEPTH} levels deep")


def _reason(error: yaml.MarkedYAMLError) -> str:
    return f"{error.context}: {error.problem}" if error.context else f"{error.problem}"


def _refusal(place: str, message: str) -> RecipeError:
    return RecipeError([Problem(place, message)])

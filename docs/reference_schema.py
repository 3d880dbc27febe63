"""Sections of the recipe as pages, from its JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_MODULE = re.compile(r"mmdeploy__(\w+?)__\w+__Options$")
#: Sections that are a page of their own, though they lie in another.
_APART = ("serving",)
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def prose(text: str) -> str:
    """Return text with what Markdown would read otherwise escaped; what is in backquotes stays."""
    out, end = [], 0
    for match in _CODE.finditer(text):
        out += [_escaped(text[end : match.start()]), f"`{match[2]}`"]
        end = match.end()
    return "".join([*out, _escaped(text[end:])])


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return prose(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return re.sub(r"(?<!\n)([*_<\[\]{}])", r"\\\1", text)


class Reference:
    """The definitions of the schema, and where each is told of."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._methods = dict(self._method_names())
        self._page, self._places = (
            "",
            dict[str, str](),
        )  # of the page that is being written, the path of each definition

    def _method_names(self) -> Iterator[tuple[str, str]]:
        for name, schema in self._definitions.items():
            if name.startswith("Variant."):
                continue
            method = schema.get("properties", {}).get("method", {})
            if (found := _MODULE.match(name)) and isinstance(method.get("const"), str):
                yield name, f"{found[1]}.{method['const']}"
            elif name.endswith("Step") and isinstance(method.get("const"), str):
                yield name, f"preprocess.{method['const']}"

    def section_pages(self) -> Iterator[tuple[str, str]]:
        """Give the page of each section, and that of the recipe as a whole."""
        properties: Schema = self._definitions["Recipe"]["properties"]
        sections = {key: schema for key, schema in properties.items() if self._structured(schema)}
        components = self._definitions["Component"]["properties"]
        for key in _APART:
            sections[f"components.NAME.{key}"] = components[key]
        apart = {key: f"see [components.NAME.{key}](components.NAME.{key}.md)" for key in _APART}
        top = ["# The recipe", "", *_text(self._definitions["Recipe"])]
        top += self._table(self._definitions["Recipe"], {key: f"see [{key}]({key}.md)" for key in sections})
        for key, schema in sections.items():
            tables = self._turn_to(key, schema, set())
            page = [f"# {key}", "", *_text(schema)]
            if not tables or tables[0][0] != key:
                page += [f"Takes: {self._kind(schema)}.", ""]
            for path, name in tables:
                heading = [] if path == key else [f"## {path}", "", *_text(self._definitions[name])]
                page += [f"({self._anchor(name)})=", *heading]
                page += self._table(self._definitions[name], apart if name == "Component" else {})
            yield f"recipe/{key}.md", "\n".join(page)
        listed = [f"- [{key}]({key}.md)" for key in sections]
        tree = ["", "```{toctree}", ":hidden:", "", *sections, "```", ""]
        yield "recipe/index.md", "\n".join([*top, "## Sections", "", *listed, *tree])

    def options(self, method: str) -> Iterator[str]:
        """Give the table of a method's options, and of the sections in them."""
        for name, known in self._methods.items():
            if known == method:
                tables = self._turn_to(method, {"$ref": f"#/$defs/{name}"}, {name})
                yield from ("## Options", "", *self._table(self._definitions[name]))
                for path, below in tables:
                    yield from (f"({self._anchor(below)})=", f"### {path}", "", *_text(self._definitions[below]))
                    yield from self._table(self._definitions[below])

    def _turn_to(self, page: str, schema: Schema, seen: set[str]) -> list[tuple[str, str]]:
        """Begin a page: the definitions that it has to tell of, each with its path."""
        self._page, self._places = page, {}
        return [*self._reached(page, schema, seen)]

    def _anchor(self, definition: str) -> str:
        return f"section-{self._page}-{definition}".lower().replace("_", "-").replace(".", "-")

    def _structured(self, schema: Schema) -> bool:
        return any(self._properties(name) or name in self._methods for name in _references(schema))

    def _properties(self, name: str) -> Schema:
        found: Schema = self._definitions[name].get("properties", {})
        return found

    def _reached(self, path: str, schema: Schema, seen: set[str]) -> Iterator[tuple[str, str]]:
        """Give the definitions below a place by the path at which each is met first, methods left out."""
        for name, steps in _placed(schema, path):
            below = self._properties(name)
            if name in seen or not below or name in self._methods:
                if name not in seen or name not in self._methods:
                    continue
            else:
                seen.add(name)
                yield self._places.setdefault(name, steps), name
            for key, one in below.items():
                if not (name == "Component" and key in _APART):
                    yield from self._reached(f"{steps}.{key}", one, seen)

    def _table(self, schema: Schema, told: Mapping[str, str] | None = None) -> Iterator[str]:
        """Give a table of keys; what some of them take is told elsewhere."""
        yield from ("| key | | takes | default |", "|---|---|---|---|")
        required = schema.get("required", ())
        for key, one in schema.get("properties", {}).items():
            if key == "method":
                continue
            default = "must be there" if key in required else _default(one)
            kind = (told or {}).get(key) or self._kind(one)
            yield f"| `{key}` | {cell(one.get('description', ''))} | {kind} | {default} |"
        yield ""

    def _kind(self, schema: Any) -> str:
        """Say what a value may be, with links to where sections are told of."""
        match schema:
            case {"$ref": str(reference)}:
                return self._linked(reference.rpartition("/")[2])
            case {"anyOf": list(parts)} | {"oneOf": list(parts)}:
                return " or ".join(dict.fromkeys(self._kind(part) for part in parts))
            case {"enum": list(values)}:
                return ", ".join(f"`{value}`" for value in values)
            case {"const": value}:
                return f"`{value}`"
            case {"type": "array", "prefixItems": list(parts)}:
                return f"a list of {len(parts)}: {', '.join(self._kind(part) for part in parts)}"
            case {"type": "array", "items": items}:
                return f"a list of: {self._kind(items)}"
            case {"type": "object", "additionalProperties": dict(values)}:
                return f"by name: {self._kind(values)}"
            case {"type": "object", "patternProperties": dict(values)}:
                return f"by name: {self._kind(next(iter(values.values())))}"
            case {"type": "object", "title": "by reference"}:
                return "[your own](../../extending.md)"
            case {"type": str(kind)}:
                return cell(f"{kind}{_bounds(schema)}")
        return "any value"

    def _linked(self, name: str) -> str:
        schema = self._definitions[name]
        if name in self._methods:
            return f"[{self._methods[name]}](../methods/{self._methods[name]}.md)"
        if name in self._places:
            return f"[{self._places[name].removeprefix(f'{self._page}.')}](#{self._anchor(name)})"
        if name.startswith("Variant.") or not schema.get("properties"):
            return self._kind(schema) if "$ref" not in schema else "any value"
        return f"`{schema.get('title', name)}`"


def _placed(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """Give each definition that a schema refers to, with its path: below a name, or in a list."""
    match schema:
        case {"$ref": str(reference)}:
            yield reference.rpartition("/")[2], path
        case {"anyOf": list(parts)} | {"oneOf": list(parts)}:
            for part in parts:
                yield from _placed(part, path)
        case {"type": "array", "items": items}:
            yield from _placed(items, f"{path}.N")
        case {"type": "object"}:
            values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
            for value in values:
                yield from _placed(value, f"{path}.NAME")


def _references(schema: Any) -> Iterator[str]:
    return (name for name, _ in _placed(schema, ""))


def _bounds(schema: Schema) -> str:
    found = "".join(f" {sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema)
    return found + (f" like `{schema['pattern']}`" if "pattern" in schema else "")


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    return "none" if value is None else cell(f"`{json.dumps(value)}`")


def _text(schema: Schema) -> list[str]:
    return [prose(schema["description"]), ""] if schema.get("description") else []

"""Lines of a proposed recipe: values in YAML's flow style, over several lines only where one would be too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmdeploy.recipe.yaml_tree import text_of

#: Characters of a line.
WIDTH = 100


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = text_of(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n")
    return text.removesuffix("\n...")


def block(key: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """Give a section of a component, in one line where it fits, else with a line for each field."""
    line = f"    {key}: {flow(dict(fields))}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"    {key}:"
    yield from (f"      {flow(name)}: {flow(value)}" for name, value in fields.items())

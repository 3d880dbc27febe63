"""``mmdeploy list``: passes, engines and gates, with their options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.text import wrapped
from mmdeploy.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

_SECTIONS = {
    "prune": "components.<name>.prune: fewer weights",
    "recover": "components.<name>.recover: training after pruning",
    "export": "components.<name>.export: from PyTorch to a graph",
    "quantize": "components.<name>.quantize: to INT8",
    "engines": "components.<name>.engine: what runs it",
    "serving": "components.<name>.serving: how Triton runs it",
    "gates": "gates: what the served ensemble must prove",
}


@click.command()
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List passes, engines, serving and gates with their options; with a NAME, all that is known of it.

    NAME is a section (prune, recover, export, quantize, engines, serving, gates) or one entry of it.

    \b
    Example:
      mmdeploy list
      mmdeploy list quantize.static
    """  # noqa: D301
    entries = _entries()
    if name == "serving":
        click.echo(_whole(name, entries[name]))
    elif name is None or name in _SECTIONS:
        click.echo("\n\n".join(_section(section, entries) for section in _SECTIONS if name in (None, section)))
    elif name in entries:
        click.echo(_whole(name, entries[name]))
    else:
        alone = [full for full in entries if full.partition(".")[2] == name]
        if len(alone) != 1:
            raise UsageError(f"nothing is named {name!r}; {did_you_mean(name, [*_SECTIONS, *entries])}")
        click.echo(_whole(alone[0], entries[alone[0]]))


def _entries() -> dict[str, Any]:
    """Return every module by ``section.method``, and the one section without methods by its name."""
    from mmdeploy import engines, export, gates, prune, quantize, recover
    from mmdeploy.triton import options

    registries: dict[str, Mapping[str, Any]] = {
        "prune": prune.METHODS,
        "recover": recover.METHODS,
        "export": export.METHODS,
        "quantize": quantize.METHODS,
        "engines": engines.METHODS,
        "gates": gates.METHODS,
    }
    serving = SimpleNamespace(__doc__=options.__doc__, Options=options.Serving)
    methods = {
        f"{section}.{method}": module for section, modules in registries.items() for method, module in modules.items()
    }
    return {"serving": serving} | methods


def _section(section: str, entries: Mapping[str, Any]) -> str:
    lines = [_SECTIONS[section]]
    for name, module in entries.items():
        if name == section or name.startswith(f"{section}."):
            first = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
            lines += ["", f"  {name}", wrapped(first, "    ")]
            lines += [f"      {signature}" for signature, _ in _options(module.Options)]
    return "\n".join(lines)


def _whole(name: str, module: Any) -> str:
    lines = [name, "", inspect.cleandoc(module.__doc__ or ""), "", "options:"]
    for signature, text in _options(module.Options):
        lines += [f"  {signature}"] + ([wrapped(text, "      ")] if text else [])
    return "\n".join(lines)


def _options(options: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give ``name: type = default`` and what it does for each option; those of a section within, dotted."""
    from mmdeploy.recipe.sections import described, models

    schema = options.model_json_schema()
    texts = described(options)
    for name, field in options.model_fields.items():
        if name == "method":
            continue
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        default = (
            " (required)" if field.is_required() else f" = {_default(field.get_default(call_default_factory=True))}"
        )
        yield f"{prefix}{name}: {kind}{default}", texts.get(name, "")
        for section in models(field.annotation):
            yield from _options(section, f"{prefix}{name}.")


def _default(value: Any) -> str:
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    if isinstance(value, BaseModel):
        return "{}"
    return "none" if value is None else json.dumps(to_jsonable_python(value))


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Write a JSON schema as a reader would say it: ``number >= 0``, ``minmax | entropy``."""
    match schema:
        case {"$ref": str(reference)}:
            return _kind(definitions[reference.rpartition("/")[2]], definitions)
        case {"anyOf": list(parts)} | {"oneOf": list(parts)}:
            return " | ".join(dict.fromkeys(_kind(part, definitions) for part in parts if part != {"type": "null"}))
        case {"enum": list(values)}:
            return " | ".join(str(value) for value in values)
        case {"const": value}:
            return str(value)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_kind(items, definitions)}"
        case {"type": "array"}:
            return "list"
        case {"type": "object"}:
            return "section" if "properties" in schema else "mapping"
    return str(schema.get("format", schema.get("type", "any"))) + _limits(schema)


def _limits(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" in [{schema['minimum']}, {schema['maximum']}]"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {schema[key]}" for key, sign in signs.items() if key in schema)

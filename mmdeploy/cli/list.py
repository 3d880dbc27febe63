"""``mmdeploy list``: passes, engines and gates, with their options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.text import wrapped
from mmdeploy.core.errors import PluginError, UsageError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmdeploy.plugins.loading import Plugin
    from mmdeploy.plugins.registry import Registry

_SECTIONS = {
    "preprocess": "preprocess, postprocess: between what clients send and get, and the components",
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

    NAME is a section (preprocess, prune, recover, export, quantize, engines, serving, gates) or one entry of it; or the
    reference of a plug-in beside the current folder's recipe, which is then imported. What is installed is among the
    others.

    \b
    Example:
      mmdeploy list
      mmdeploy list quantize.static
      mmdeploy list gates.py:calibration_error
    """  # noqa: D301
    from mmdeploy.plugins.registry import is_reference

    if is_reference(name):
        click.echo(_whole(str(name), _referred(str(name))))
        return
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
    from mmdeploy.triton import options

    serving = SimpleNamespace(__doc__=options.__doc__, Options=options.Serving)
    methods = {
        f"{section}.{method}": _loaded(registry, method)
        for section, registry in _registries().items()
        for method in registry
    }
    return {"serving": serving} | _media() | methods


def _media() -> dict[str, Any]:
    """Return the methods of ``preprocess`` and ``postprocess`` with their sections' options."""
    from mmdeploy.preprocess import METHODS
    from mmdeploy.recipe.media_sections import SECTIONS

    return {
        f"preprocess.{name}": SimpleNamespace(__doc__=inspect.getdoc(inspect.getmodule(method)), Options=SECTIONS[name])
        for name, method in METHODS.items()
    }


def _registries() -> dict[str, Registry[Any]]:
    from mmdeploy import engines, export, gates, prune, quantize, recover

    return {
        "prune": prune.METHODS,
        "recover": recover.METHODS,
        "export": export.METHODS,
        "quantize": quantize.METHODS,
        "engines": engines.METHODS,
        "gates": gates.METHODS,
    }


def _loaded(registry: Registry[Any], method: str) -> Any:
    """Return a method; where an installed one cannot be loaded, what says so in its place."""
    try:
        return registry[method]
    except PluginError as error:
        return SimpleNamespace(__doc__=f"CANNOT BE USED: {error.message}", Options=None)


def _referred(reference: str) -> Plugin:
    """Return the plug-in that a reference names, as what it has the members of.

    Raises:
        PluginError: If it cannot be loaded, or is neither a pass, nor an engine, nor a gate.
    """
    from mmdeploy.plugins.loading import Source, imported

    registries, here = _registries(), Path.cwd()
    found = imported(Source(reference, reference, here))
    if not any(hasattr(found, member) for member in ("check", "load", "run")):
        raise PluginError(f"{reference} is neither a pass, nor an engine, nor a gate: it has no run, load or check")
    formats = (getattr(found, "CONSUMES", None), getattr(found, "PRODUCES", None))
    if hasattr(found, "check"):
        section = "gates"
    elif hasattr(found, "BACKEND") or hasattr(found, "load"):
        section = "engines"
    else:
        fitting = (name for name, registry in registries.items() if formats in registry.contract.formats)
        section = next(fitting, "quantize")
    plugin: Plugin = registries[section].find(reference, here)
    return plugin


def _origin(module: Any) -> str:
    """Say who brings a plug-in; empty for what is built in, or lies beside a recipe."""
    source = getattr(module, "source", None)
    return f"Brought by {source.distribution}." if source is not None and source.distribution else ""


def _section(section: str, entries: Mapping[str, Any]) -> str:
    lines = [_SECTIONS[section]]
    for name, module in entries.items():
        if name == section or name.startswith(f"{section}."):
            first = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
            lines += ["", f"  {name}", wrapped(f"{first} {_origin(module)}", "    ")]
            lines += [f"      {signature}" for signature, _ in _options(module.Options)]
    return "\n".join(lines)


def _whole(name: str, module: Any) -> str:
    origin = [_origin(module), ""] if _origin(module) else []
    lines = [name, "", inspect.cleandoc(module.__doc__ or ""), "", *origin, "options:"]
    for signature, text in _options(module.Options):
        lines += [f"  {signature}"] + ([wrapped(text, "      ")] if text else [])
    return "\n".join(lines)


def _options(options: type[BaseModel] | None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give ``name: type = default`` and what it does for each option; those of a section within, dotted."""
    from mmdeploy.recipe.sections import described, models

    if options is None:
        return
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

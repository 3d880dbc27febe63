"""``mmdeploy list``: passes, engines and gates, with their options."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli import completion
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import cut, wrapped
from mmdeploy.core.errors import PluginError, UsageError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmdeploy.plugins.loading import Plugin
    from mmdeploy.plugins.registry import Registry

#: Where the methods of a section stand in a recipe.
SECTIONS = {
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
@click.argument("name", required=False, shell_complete=completion.methods)
@output_options(quiet="names, one a line")
def command(name: str | None, output: Output) -> None:
    """List passes, engines, serving and gates, one a line; with a NAME, all that is known of it, with its options.

    NAME is a section (preprocess, prune, recover, export, quantize, engines, serving, gates) or one entry of it; or the
    reference of a plug-in beside the current folder's recipe, which is then imported. What is installed is among the
    others.

    \b
    Example:
      mmdeploy list
      mmdeploy list quantize
      mmdeploy list quantize.static
      mmdeploy list gates.py:calibration_error
    """  # noqa: D301
    from mmdeploy.plugins.registry import is_reference

    found = {str(name): _referred(str(name))} if is_reference(name) else _named(name)

    def text() -> str:
        if name is None:
            return _overview(found)
        if name in SECTIONS and name not in found:
            return _section(name, found)
        [(full, module)] = found.items()
        return _whole(full, module)

    output.answer(
        text=text, fields=lambda: {"methods": [_fields(full, one) for full, one in found.items()]}, quiet=found
    )


def _named(name: str | None) -> dict[str, Any]:
    """Return the entries that a name means, by their full names: all without one, those of a section, or one.

    Raises:
        UsageError: If it means nothing.
    """
    entries = _entries()
    if name is None:
        return {full: one for section in SECTIONS for full, one in entries.items() if _is_of(section, full)}
    if name in entries:
        return {name: entries[name]}
    if name in SECTIONS:
        return {full: one for full, one in entries.items() if _is_of(name, full)}
    alone = [full for full in entries if full.partition(".")[2] == name]
    if len(alone) != 1:
        near = nearest(name, [*SECTIONS, *entries, *(full.partition(".")[2] for full in entries)])
        guess = f"did you mean {near!r}? " if near else ""
        raise UsageError(
            f"nothing is named {name!r}; {guess}accepted: {', '.join(SECTIONS)}, or a method of one",
            hint="mmdeploy list names them all",
        )
    return {alone[0]: entries[alone[0]]}


def _is_of(section: str, full: str) -> bool:
    return full == section or full.startswith(f"{section}.")


def _entries() -> dict[str, Any]:
    """Return every module by ``section.method``, and the one section without methods by its name."""
    from mmdeploy.recipe.schema import REGISTRIES
    from mmdeploy.triton import options

    serving = SimpleNamespace(__doc__=options.__doc__, Options=options.Serving)
    methods = {
        f"{section}.{method}": _loaded(registry, method)
        for section, registry in REGISTRIES.items()
        for method in registry
    }
    return {"serving": serving} | _media() | methods


def _media() -> dict[str, Any]:
    """Return the methods of ``preprocess`` and ``postprocess`` with their sections' options."""
    from mmdeploy.preprocess import METHODS
    from mmdeploy.recipe import media_sections

    modules = {name: inspect.getmodule(method) for name, method in METHODS.items()}
    of_several = {module for module, times in Counter(modules.values()).items() if times > 1}
    return {
        f"preprocess.{name}": SimpleNamespace(
            __doc__="\n\n".join(
                inspect.getdoc(one) or "" for one in (METHODS[name], module) if one is module or module in of_several
            ),
            Options=media_sections.SECTIONS[name],
        )
        for name, module in modules.items()
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
    from mmdeploy.recipe.schema import REGISTRIES

    here = Path.cwd()
    found = imported(Source(reference, reference, here))
    if not any(hasattr(found, member) for member in ("check", "load", "run")):
        raise PluginError(f"{reference} is neither a pass, nor an engine, nor a gate: it has no run, load or check")
    formats = (getattr(found, "CONSUMES", None), getattr(found, "PRODUCES", None))
    if hasattr(found, "check"):
        section = "gates"
    elif hasattr(found, "BACKEND") or hasattr(found, "load"):
        section = "engines"
    else:
        fitting = (name for name, registry in REGISTRIES.items() if formats in registry.contract.formats)
        section = next(fitting, "quantize")
    plugin: Plugin = REGISTRIES[section].find(reference, here)
    return plugin


def _distribution(module: Any) -> str:
    """Return what brings a plug-in; empty for what is built in, or lies beside a recipe."""
    source = getattr(module, "source", None)
    return (source.distribution or "") if source is not None else ""


def _origin(module: Any) -> str:
    return f"Brought by {_distribution(module)}." if _distribution(module) else ""


def _overview(entries: Mapping[str, Any]) -> str:
    """Give a line each."""
    lines, short = [], {name: name.rpartition(".")[2] for name in entries}
    widest = max(map(len, short.values()))
    for section, heading in SECTIONS.items():
        lines += [heading]
        for name, module in entries.items():
            if _is_of(section, name):
                told = _summary(module).removeprefix(f"{short[name].capitalize()}: ")
                by = f"[{_distribution(module)}] " if _distribution(module) else ""
                lines.append(cut(f"  {short[name].ljust(widest)}  {by}{told[:1].upper()}{told[1:]}"))
        lines.append("")
    return "\n".join([*lines, "mmdeploy list NAME tells all of a method, or of a section, with the options."])


def _section(section: str, entries: Mapping[str, Any]) -> str:
    lines = [SECTIONS[section]]
    for name, module in entries.items():
        lines += ["", f"  {name}", wrapped(f"{_summary(module)} {_origin(module)}", "    ")]
        lines += [wrapped(option.signature, "      ", hanging=4) for option in _options(module.Options)]
    return "\n".join(lines)


def _flowing(paragraph: str) -> str:
    """Wrap a paragraph anew; one with lines of its own, such as an example, stays as it is."""
    own = any(line.startswith((" ", "-", "*", "|")) for line in paragraph.split("\n"))
    return paragraph if own else wrapped(paragraph)


def _summary(module: Any) -> str:
    return " ".join(inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].split()).replace("``", "")


def _fields(name: str, module: Any) -> dict[str, Any]:
    """Return all that is known of an entry, for programs."""
    return {
        "name": name,
        "section": name.partition(".")[0] if name.partition(".")[0] in SECTIONS else None,
        "summary": _summary(module),
        "text": inspect.cleandoc(module.__doc__ or ""),
        "brought_by": _distribution(module) or None,
        "options": [asdict(option) for option in _options(module.Options)],
    }


def _whole(name: str, module: Any) -> str:
    origin = [_origin(module), ""] if _origin(module) else []
    paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    lines = [name, "", "\n\n".join(map(_flowing, paragraphs)), "", *origin, "options:"]
    for option in _options(module.Options):
        lines += [wrapped(option.signature, "  ", hanging=4)]
        lines += [wrapped(option.text, "      ")] if option.text else []
    return "\n".join(lines)


@dataclass(frozen=True)
class _Option:
    """An option of a method: its name, dotted where it is in a section within, its type and what it does."""

    name: str
    type: str
    required: bool
    default: Any
    text: str

    @property
    def signature(self) -> str:
        """``name: type = default``."""
        default = "none" if self.default is None else json.dumps(self.default)
        return f"{self.name}: {self.type}{' (required)' if self.required else f' = {default}'}"


def _options(options: type[BaseModel] | None, prefix: str = "") -> Iterator[_Option]:
    """Give the options of a model, and those of the sections within."""
    from mmdeploy.recipe.sections import described, models

    if options is None:
        return
    schema = options.model_json_schema()
    texts = described(options)
    for name, field in options.model_fields.items():
        if name == "method":
            continue
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        default = None if field.is_required() else _default(field.get_default(call_default_factory=True))
        yield _Option(f"{prefix}{name}", kind, field.is_required(), default, texts.get(name, ""))
        for section in models(field.annotation):
            yield from _options(section, f"{prefix}{name}.")


def _default(value: Any) -> Any:
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    return {} if isinstance(value, BaseModel) else to_jsonable_python(value)


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

"""What a shell completes beside verbs and options: recipes, components, gates, methods, ensembles.

Each is read from files that are there, in milliseconds; what cannot be read completes to nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Completer = Callable[[click.Context, click.Parameter, str], list["CompletionItem"]]


def _completer(words: Callable[[click.Context, str], Iterable[str]]) -> _Completer:
    """Complete by the words that begin as what is typed; where there are none, by files."""

    @functools.wraps(words)
    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            found = [word for word in words(ctx, incomplete) if word.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - a traceback in the middle of a line helps nobody
            found = []
        return [CompletionItem(word) for word in found] or [CompletionItem(incomplete, type="file")]

    return complete


@_completer
def recipes(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Give YAML files, and folders with a recipe, here and one folder further."""
    folder, _, _ = incomplete.rpartition("/")
    start = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".")
    places = [*start.iterdir(), *start.glob("*/*/")]
    return sorted(str(one) for one in places if one.suffix in (".yaml", ".yml") or (one / "recipe.yaml").is_file())


@_completer
def components(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Give the components of the recipe that is named before."""
    import yaml

    found = yaml.safe_load(Path(ctx.params["recipe"]).read_text(encoding="utf-8"))
    return [*found["components"]]


@_completer
def gates(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Give the gates of the report that is named before."""
    place = Path(ctx.params["report"])
    report: Any = json.loads((place / "report.json" if place.is_dir() else place).read_text(encoding="utf-8"))
    return dict.fromkeys(str(gate["gate"]) for gate in report["gates"])


@_completer
def methods(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Give what ``mmdeploy list`` knows, by name; none of it is imported."""
    from mmdeploy import engines, export, gates, preprocess, prune, quantize, recover

    rooms = (preprocess, prune, recover, export, quantize, engines, gates)
    known = {room.__name__.rpartition(".")[2]: [*room.METHODS] for room in rooms}
    return ["serving", *known, *(f"{section}.{method}" for section, found in known.items() for method in found)]


@_completer
def ensembles(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Give the ensembles that are published."""
    from mmdeploy.report.published import published_names

    return published_names(Path(ctx.params.get("destination") or "model_repository"))

"""Arguments and options that several verbs share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., object])


def recipe_argument(function: Function) -> Function:
    """Add ``RECIPE``: a YAML file or the folder of a ``recipe.yaml``; the verb's ``recipe: Path``."""

    def in_folder(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path:
        return value / "recipe.yaml" if os.path.isdir(value) else value  # noqa: PTH112 - raises for no name

    return click.argument("recipe", type=click.Path(path_type=Path), callback=in_folder)(function)


def set_option(function: Function) -> Function:
    """Add ``--set path=value``, repeatable; the verb's ``overrides: tuple[str, ...]``."""
    return click.option(
        "--set",
        "overrides",
        metavar="PATH=VALUE",
        multiple=True,
        help="Override a value of the recipe, such as components.fusion.quantize.method=static or "
        "gates.0.min_cosine=0.99; null takes it away. Repeatable.",
    )(function)


def json_option(function: Function) -> Function:
    """Add ``--json``; the verb's ``as_json: bool``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def workdir_option(function: Function) -> Function:
    """Add ``--workdir``, the folder of the store and of the runs; given to the verb as ``workdir: Path``."""
    return click.option(
        "--workdir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".mmdeploy"),
        show_default=True,
        envvar="MMDEPLOY_WORKDIR",
        help="Folder of the artifact store, the runs and their reports.",
    )(function)


def only_option(function: Function) -> Function:
    """Add ``--only``, the id of a step; the verb's ``only: str | None``."""
    return click.option(
        "--only",
        metavar="STEP",
        help="Only this step, such as image_encoder/quantize, and what it needs; nothing is judged or published.",
    )(function)


def no_cache_option(function: Function) -> Function:
    """Add ``--no-cache``; the verb's ``no_cache: bool``."""
    return click.option(
        "--no-cache",
        is_flag=True,
        help="Reuse no stored result. What a step makes takes the place of what was stored.",
    )(function)


def destination_option(function: Function) -> Function:
    """Add ``--output``, where releases are published; given to the verb as ``destination: Path``."""
    return click.option(
        "--output",
        "destination",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("model_repository"),
        show_default=True,
        help="Folder to publish to.",
    )(function)


def public_key_option(function: Function) -> Function:
    """Add ``--public-key``; given to the verb as ``public_key: Path | None``."""
    return click.option(
        "--public-key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Public key (PEM) of who must have signed what is there; see mmdeploy sign.",
    )(function)

"""Arguments and options that several verbs share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmdeploy.cli import completion

if TYPE_CHECKING:
    from mmdeploy.core.shared_store import SharedStore

_READ_ONLY = "mmdeploy.store_read_only"

Function = TypeVar("Function", bound=Callable[..., object])


class Finite(click.FloatRange):
    """A range of numbers that has neither infinity nor what is no number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


def recipe_argument(function: Function) -> Function:
    """Add ``RECIPE``: a YAML file or the folder of a ``recipe.yaml``; the verb's ``recipe: Path``."""

    def in_folder(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path:
        return value / "recipe.yaml" if os.path.isdir(value) else value  # noqa: PTH112 - raises for no name

    return click.argument(
        "recipe", type=click.Path(path_type=Path), callback=in_folder, shell_complete=completion.recipes
    )(function)


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


def store_option(function: Function) -> Function:
    """Add ``--store`` and ``--store-read-only``; given to the verb as ``shared: SharedStore | None``."""

    def opened(ctx: click.Context, parameter: click.Parameter, url: str | None) -> SharedStore | None:
        from mmdeploy.core.shared_store import SharedStore

        return SharedStore(url, read_only=bool(ctx.meta.get(_READ_ONLY))) if url else None

    def kept(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_READ_ONLY] = value

    read_only = click.option(
        "--store-read-only",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=kept,
        envvar="MMDEPLOY_STORE_READ_ONLY",
        help="Take results from --store and send none, as a pull request should.",
    )
    return click.option(
        "--store",
        "shared",
        metavar="URL",
        callback=opened,
        envvar="MMDEPLOY_STORE",
        help="Share results with other machines there: s3://bucket/prefix, gs://bucket/prefix, file:///nfs/folder or a "
        "path.",
    )(read_only(function))


def on_option(function: Function) -> Function:
    """Add ``--on``, the cluster that steps run on; given to the verb as ``on: str | None``."""

    def checked(ctx: click.Context, parameter: click.Parameter, where: str | None) -> str | None:
        from mmdeploy.cluster.connection import check_address, require_ray

        if where:
            check_address(where)
            require_ray()
        return where or None

    return click.option(
        "--on",
        metavar="CLUSTER",
        callback=checked,
        envvar="MMDEPLOY_ON",
        help="Run steps on a Ray cluster: ray for one on this machine, ray://HOST:10001 for one elsewhere, HOST:6379 "
        "or auto on a node of it. Nodes on other machines need --store.",
    )(function)


def only_option(function: Function) -> Function:
    """Add ``--only``, the id of a step; the verb's ``only: str | None``."""
    return click.option(
        "--only",
        metavar="STEP",
        help="Only this step, such as image_encoder/quantize, and what it needs; nothing is judged or published.",
    )(function)


def jobs_option(function: Function) -> Function:
    """Add ``--jobs``."""
    return click.option(
        "--jobs",
        type=click.IntRange(1),
        help="Steps at once; as many as there are cores by default. They share the cores, and none takes more threads "
        "than OMP_NUM_THREADS says, but for those that measure time.",
    )(function)


def no_cache_option(function: Function) -> Function:
    """Add ``--no-cache``; the verb's ``no_cache: bool``."""
    return click.option(
        "--no-cache",
        is_flag=True,
        help="Reuse no stored result. What a step makes takes the place of what was stored.",
    )(function)


def benchmark_option(function: Function) -> Function:
    """Add ``--benchmark-json``; the verb's ``benchmark_json: Path | None``."""
    return click.option(
        "--benchmark-json",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the figures in the form that trackers of benchmarks read: FILE with what is better smaller, "
        "FILE's name with .larger before its suffix with what is better larger.",
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


def control_key_option(function: Function) -> Function:
    """Add ``--control-key-file``; given to the verb as ``control_key_file: Path | None``."""
    return click.option(
        "--control-key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the secret that opens the server's control endpoints, for its owner only (mode 600). Without "
        "it: what MMDEPLOY_CONTROL_KEY holds.",
    )(function)

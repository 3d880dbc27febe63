"""``mmdeploy package``: write what runs a release in a container, with compose, on Kubernetes or by KServe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import click

from mmdeploy.cli.options import public_key_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import printable, wrapped

_FEWEST, _MOST = 2, 10


@click.command()
@click.argument("release", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option(
    "--output",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write: a new one, or one that this wrote before.",
)
@click.option("--container", metavar="TAG", help="Triton's release image; the newest of which everything is known.")
@click.option("--digest", metavar="SHA256:…", help="Digest of that image: a tag can be moved, a digest cannot.")
@click.option("--image", metavar="NAME:TAG", help="What the image is called; after the release where it is left out.")
@click.option(
    "--model-control",
    type=click.Choice(["none", "explicit"]),
    default="none",
    show_default=True,
    help="explicit: models can be unloaded and loaded while it runs, by who has the control key.",
)
@click.option(
    "--capacity",
    "plan",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plan of mmdeploy capacity --json: the fewest pods, and the cores of each.",
)
@click.option("--min-replicas", type=int, help="Fewest pods; 2 where neither this nor a plan says.")
@click.option("--max-replicas", type=int, help="Most pods; 10, or with a plan twice the fewest, at least 10.")
@click.option("--gateway", is_flag=True, help="Add a gateway for callers who cannot speak KServe.")
@public_key_option
@output_options(quiet="the folder")
def command(
    release: Path,
    folder: Path,
    container: str | None,
    digest: str | None,
    image: str | None,
    model_control: Literal["none", "explicit"],
    plan: Path | None,
    min_replicas: int | None,
    max_replicas: int | None,
    gateway: bool,
    public_key: Path | None,
    output: Output,
) -> None:
    """Write a folder with all that runs a release: a Containerfile, docker compose, Kubernetes (kustomize) and KServe.

    RELEASE is a published ensemble, a release, or a folder in which one is published (model_repository by default). It
    is held against Triton's image first: what that does not serve is refused, and nothing is written. Sizes come from
    what the build measured. No secret is written; what must be made is said. See docs/deployment.md.

    \b
    Example:
      mmdeploy package --output deploy
      mmdeploy package model_repository/spoken_digits --output deploy \\
        --container 26.08-py3 --public-key key.pub
      mmdeploy capacity model_repository/spoken_digits --qps 500 --p99-ms 80 \\
        --keep-instances --json > plan.json
      mmdeploy package --output deploy --capacity plan.json --gateway
    """  # noqa: D301
    from mmdeploy.packaging import containers
    from mmdeploy.packaging.package import package
    from mmdeploy.packaging.settings import PackageSettings
    from mmdeploy.packaging.sizing import read_sizing

    sizing = None if plan is None else read_sizing(plan)
    fewest = min_replicas if min_replicas is not None else _FEWEST if sizing is None else sizing.replicas
    most = max_replicas if max_replicas is not None else _MOST if sizing is None else max(_MOST, 2 * fewest)
    settings = PackageSettings(image, digest, model_control, fewest, most, gateway, sizing)
    base = containers.newest() if container is None else containers.container(container)
    packaged = package(release, folder, base, settings, public_key)
    subject = packaged.subject
    doubts = [str(finding) for finding in packaged.doubts]
    fields = {
        "folder": str(folder),
        "name": subject.name,
        "release": subject.release_id,
        "container": base.image,
        "image": settings.image_of(subject),
        "changed": packaged.changed,
        "doubts": doubts,
        "notes": list(packaged.notes),
    }
    what = f"{subject.name}, release {subject.release_id}, on {base.image}"
    overlay = "gpu" if subject.gpu else "cpu"
    lines = (
        wrapped(f"{folder}: {what}{'' if packaged.changed else ': it is there already'}"),
        *(wrapped(f"doubt: {printable(line)}", "  ") for line in doubts),
        *(_note(printable(line)) for line in packaged.notes),
        f"build: docker build --tag {settings.image_of(subject)} {shlex.quote(f'{folder}/image')}",
        f"run:   docker compose --file {shlex.quote(f'{folder}/compose.yaml')} up",
        f"or:    kubectl apply --kustomize {shlex.quote(f'{folder}/kubernetes/overlays/{overlay}')}",
    )
    output.answer(text=lambda: "\n".join(lines), fields=lambda: fields, quiet=[str(folder)])


def _note(text: str) -> str:
    """Wrap a note, but for one with a command: that is to be copied."""
    return f"  note: {text}" if "kubectl " in text else wrapped(f"note: {text}", "  ")

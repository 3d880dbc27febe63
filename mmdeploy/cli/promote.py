"""``mmdeploy promote``: have a Triton that runs serve another release, without a gap."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import Finite, control_key_option, public_key_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import printable, promotion_text
from mmdeploy.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from mmdeploy.rollout.canary import Limits
    from mmdeploy.triton.server import Server


@click.command()
@click.argument("url")
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--release", "release_id", metavar="ID", help="Another release than the one that is live.")
@click.option(
    "--server-repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model repository of the server, as this machine sees it, such as a shared volume. A server that mmdeploy "
    "serve started with the same --workdir needs none.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    help="Seconds to wait at least for requests that started before, until the old models are unloaded.",
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Try the release on this share of a gateway's requests first; with too little traffic it is inconclusive.",
)
@click.option("--shadow", is_flag=True, help="Let the live release answer; the new one's answers are only compared.")
@click.option("--gateway", help="URL of the mmdeploy gateway before the server, for --canary.")
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The gateway's administrator's key; else MMDEPLOY_GATEWAY_ADMIN_KEY.",
)
@click.option(
    "--canary-seconds", type=click.FloatRange(1), default=300.0, show_default=True, help="How long to try at most."
)
@click.option(
    "--max-failures",
    type=Finite(0, 1),
    show_default="0.02",
    metavar="SHARE",
    help="How many more of its requests than of the live release's may fail, for --canary.",
)
@click.option(
    "--max-p95-ratio",
    type=Finite(0, min_open=True),
    show_default="1.5",
    metavar="RATIO",
    help="The most that its 95th percentile of the latency may be over the live release's, for --canary.",
)
@click.option(
    "--min-agreement", type=Finite(0, 1), show_default="0.9", metavar="SHARE",
    help="How many of its answers must agree with the live release's at least, for --shadow.",
)  # fmt: skip
@control_key_option
@public_key_option
@workdir_option
@output_options(quiet="the id of the release that serves")
def command(
    *,
    url: str,
    repository: Path,
    release_id: str | None,
    server_repository: Path | None,
    drain_s: float,
    canary: float | None,
    shadow: bool,
    gateway: str | None,
    admin_key_file: Path | None,
    canary_seconds: float,
    control_key_file: Path | None,
    public_key: Path | None,
    workdir: Path,
    output: Output,
    **given: float | None,
) -> None:
    """Swap what the Triton at URL serves for the live release of REPOSITORY, under load, and take it back if it fails.

    The release's models are loaded beside those that serve, and must answer the golden requests of its build; only then
    is the ensemble moved, and what served before unloaded. No request fails meanwhile, and none is answered by both.
    REPOSITORY is a published ensemble, such as model_repository/spoken_digits, a folder of one, or a release. The way
    back is the same: mmdeploy rollback, and promote again; or --release.

    The server must be started with explicit model control, as mmdeploy serve --control-key-file control.key does, and
    its control key be known here.

    \b
    Example:
      mmdeploy promote http://localhost:8000 --control-key-file control.key
      mmdeploy promote http://localhost:8000 model_repository/spoken_digits \\
        --release 20261126-101500-a1b2c3
    """  # noqa: D301
    from mmdeploy.rollout.canary import Canary
    from mmdeploy.rollout.control import require_control
    from mmdeploy.rollout.promote import examined, promote
    from mmdeploy.triton.control_key import known_key
    from mmdeploy.triton.repository import in_use
    from mmdeploy.triton.server import attach
    from mmdeploy.triton.signing import require_signed

    limits = _limits(canary, shadow, gateway, given)
    release, told = chosen_release(repository, release_id), functools.partial(_tell, output)
    server = attach(url, key=known_key(control_key_file))
    require_control(server)  # before anything is asked that only matters where that is given
    with in_use([release]):
        if public_key is not None:
            require_signed([release], public_key)
        candidate = examined(release)
        folder = _served_from(server, candidate.generation.ensemble, server_repository, workdir)
        tried = functools.partial(
            Canary,
            model=candidate.generation.ensemble,
            shadow=shadow,
            seconds=canary_seconds,
            limits=limits,
            told=told,
        )
        trial = None if canary is None else tried(*_gateway(gateway, admin_key_file), share=canary)
        promotion = promote(server, folder, candidate, told=told, drain_s=drain_s, trial=trial)
    output.answer(
        text=lambda: promotion_text(promotion), fields=lambda: asdict(promotion), quiet=[promotion.release_id]
    )


def chosen_release(path: Path, release_id: str | None) -> Path:
    """Return the release that is meant: the live one of a published ensemble, another one of it, or one by its path.

    Raises:
        UsageError: If there is none, or several could be meant.
    """
    from mmdeploy.report.published import chosen_name
    from mmdeploy.triton.repository import RELEASES, releases
    from mmdeploy.triton.staging import MANIFEST

    absolute = path.absolute()
    if not (absolute / MANIFEST).is_file():
        name = chosen_name(path, None)
        absolute = absolute / name
        if release_id is None and not absolute.exists():
            raise UsageError(f"no release of {name} is live in {path}", hint="name one: --release ID")
    if release_id is None:
        return absolute.resolve()
    real = absolute.resolve()
    is_release = real.parent.parent.name == RELEASES
    root, name = (real.parents[2], real.parent.name) if is_release else (absolute.parent, absolute.name)
    known = {one.release_id: one.path for one in releases(root, name)}
    if release_id not in known:
        raise UsageError(f"{root / name} has no release {release_id!r}: {did_you_mean(release_id, known)}")
    return known[release_id].resolve()


def _limits(canary: float | None, shadow: bool, gateway: str | None, given: Mapping[str, float | None]) -> Limits:
    """Return what a canary must keep.

    Raises:
        UsageError: If something is said of a canary, and there is none.
    """
    from mmdeploy.rollout.canary import Limits

    limits = {name: limit for name, limit in given.items() if limit is not None}
    options = [f"--{name.replace('_', '-')}" for name in limits]
    if canary is None and (shadow or gateway or options):
        what = [*(["--shadow"] if shadow else []), *(["--gateway"] if gateway else []), *options]
        raise click.UsageError(f"{' and '.join(what)}: for --canary SHARE")
    if "--min-agreement" in options and not shadow:
        raise click.UsageError("--min-agreement is for --shadow: else no two answers are compared")
    return Limits(**limits)


def _served_from(server: Server, ensemble: str, given: Path | None, workdir: Path) -> Path:
    """Return the folder that a server serves an ensemble from."""
    from mmdeploy.triton.swap_folder import folder_of

    found = given or folder_of(workdir / "serve", server.http_url, ensemble)
    if found is None:
        raise UsageError(
            f"it is not known from which folder {server.http_url} serves {ensemble}",
            hint="name it with --server-repository; or, of a server that mmdeploy serve started, its --workdir",
        )
    return found


def _gateway(url: str | None, key_file: Path | None) -> tuple[str, str]:
    """Return the URL and the administrator's key of a gateway."""
    text = os.environ.get("MMDEPLOY_GATEWAY_ADMIN_KEY", "")
    if key_file is not None:
        try:
            text = key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{key_file} cannot be read: {error}", hint="name the gateway's --admin-key-file"
            ) from error
    words = text.split()
    if not url or not words:
        missing = "--gateway" if not url else "--admin-key-file, or MMDEPLOY_GATEWAY_ADMIN_KEY"
        raise UsageError(f"--canary splits requests at a gateway: {missing} is missing")
    return url, words[-1]


def _tell(output: Output, stage: str) -> None:
    output.step(f"  {printable(stage)}")

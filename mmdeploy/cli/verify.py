"""``mmdeploy verify``: compare releases with their manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from mmdeploy.cli.options import public_key_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, printable, wrapped
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--all", "every", is_flag=True, help="Earlier releases too, not only what is live.")
@public_key_option
@output_options(quiet="the releases that are refused, a path a line")
def command(repository: Path, every: bool, public_key: Path | None, output: Output) -> int:
    """Compare what lies in a release with its manifest: files that were changed, added or lost since it was published.

    What is served is compared with the provenance of its build, too. With --public-key, the owner of that key must have
    signed it.

    REPOSITORY is a release, a published ensemble, or a folder of published ones (model_repository by default). Exits
    with 1 where anything differs. `mmdeploy serve` asks the same before it serves.

    \b
    Example:
      mmdeploy verify
      mmdeploy verify model_repository/spoken_digits --json
    """  # noqa: D301
    from mmdeploy.building.provenance import untraced
    from mmdeploy.triton.repository import CHANGED_HINT, verify
    from mmdeploy.triton.signing import unsigned

    found = {path: verify(path) or untraced(path) for path in _to_verify(repository, every=every)}
    refused = {} if public_key is None else {path: unsigned(path, public_key) for path in found}
    wrong = [path for path, damage in found.items() if damage or refused.get(path)]

    def lines() -> Iterator[str]:
        for path, damage in found.items():
            yield f"{path}: {'is not what was published' if damage else 'is what was published'}"
            yield from (f"  {printable(problem)}" for problem in damage)
            if public_key is not None:
                yield f"  {printable(refused[path] or f'signed by the owner of {public_key}')}"
        yield f"{counted(len(found), 'release')}, {len(wrong)} refused"
        if any(found.values()):
            yield wrapped(f"hint: {CHANGED_HINT}")

    releases = [
        {"path": str(path), "intact": not damage, "differs": list(damage), "unsigned": refused.get(path)}
        for path, damage in found.items()
    ]
    output.answer(text=lambda: "\n".join(lines()), fields=lambda: {"releases": releases}, quiet=map(str, wrong))
    return EXIT_GATE_FAILED if wrong else EXIT_PASS


def _to_verify(repository: Path, *, every: bool) -> list[Path]:
    from mmdeploy.report.published import published_names
    from mmdeploy.triton.repository import releases, resolve

    if not every:
        return resolve(repository)
    return [release.path for name in published_names(repository) for release in releases(repository, name)] or resolve(
        repository
    )

"""``mmdeploy sign``: sign releases with a key of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_PASS


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Private key: elliptic, in PEM."
)
@output_options(quiet="nothing")
def command(repository: Path, key: Path, output: Output) -> int:
    """Sign what is live: REPOSITORY is a release, a published ensemble, or a folder of them.

    The signature is OpenSSF model signing's: the file model.sig in the release. A release that is not what was
    published is not signed. MMDEPLOY_SIGNING_PASSWORD opens a key that is encrypted. `mmdeploy build --sign-key` signs
    before a release is live, `mmdeploy verify` and `mmdeploy serve` check with --public-key.

    \b
    Example:
      mmdeploy sign --key key.pem
      mmdeploy sign model_repository/spoken_digits --key key.pem
    """  # noqa: D301
    from mmdeploy.triton.repository import require_intact, resolve
    from mmdeploy.triton.signing import sign

    found = resolve(repository)
    require_intact(found)
    for release in found:
        sign(release, key)
        output.tell(f"{release}: signed")
    if output.as_json:
        output.document({"signed": [str(release) for release in found]})
    return EXIT_PASS

"""``mmdeploy schema``: print the JSON schema of a recipe."""

from __future__ import annotations

import json

import click

from mmdeploy.cli.output import Output, output_options


@click.command()
@output_options(quiet="the schema, as always")
def command(output: Output) -> None:
    """Print the JSON schema of a recipe (draft 2020-12), for editors and other tools.

    It knows every pass, engine and gate of this installation. What takes more than one value to judge (wiring,
    batch sizes, files) is for mmdeploy validate. It is JSON with and without --json.

    \b
    Example:
      mmdeploy schema > recipe.schema.json
      # first line of a recipe, for editors with a YAML language server:
      # yaml-language-server: $schema=recipe.schema.json
    """  # noqa: D301
    from mmdeploy.recipe.json_schema import json_schema

    output.document(json.dumps(json_schema(), indent=2))

"""What must hold of repositories before a server is started on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdeploy.core.errors import UsageError
from mmdeploy.core.open_files import require_open_files
from mmdeploy.triton.install import Installation
from mmdeploy.triton.lint import DANGEROUS, lint_repositories
from mmdeploy.triton.served_step import require_packages


def require_servable(repositories: Sequence[Path], installation: Installation) -> None:
    """Do nothing where a server may be started on repositories.

    Raises:
        EnvironmentUnfitError: If packages are missing that their Python steps need, or files cannot be opened enough.
        UsageError: If a repository is none, would take the wheel's server down, or have a shell run a name in it.
    """
    require_open_files()
    for repository in repositories:
        if not repository.is_dir():
            raise UsageError(f"{repository} is not a folder", hint="name a Triton model repository")
    if installation.embedded:
        _require_safe(repositories)
        for repository in repositories:
            require_packages(repository)


def _require_safe(repositories: Sequence[Path]) -> None:
    found = lint_repositories(repositories, DANGEROUS)
    if found:
        shown = "".join(f"\n  {finding.file}: {finding.message}; {finding.remedy}" for finding in found)
        raise UsageError(f"this server cannot serve that safely:{shown}")

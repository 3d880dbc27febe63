"""Steps of an ensemble that are Python code of the release itself, run by Triton's python backend.

What such a step runs lies in its version folder: ``model.py``, and beside it every file and package that this imports.
It imports nothing of mmdeploy, so that a release container needs the packages of ``requirements.txt`` and no more.
`REQUESTS_CODE` may be one of the files: requests checked, and refused each for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.triton.options import Serving

#: ``batch.py`` of the Python-based backends, which imports nothing of mmdeploy: `ServedStep.beside` may name it.
REQUESTS_CODE = Path(__file__).parent / "backends" / "batch.py"
#: Key of ``parameters`` under which a step finds its options, as JSON.
OPTIONS_PARAMETER = "mmdeploy.options"
#: Name of a step's code in its version folder.
STEP_FILENAME = "model.py"
#: Beside the models of a repository: what pip must install before its steps can run.
REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class ServedStep:
    """A Python step as Triton serves it.

    Attributes:
        name: Name of its model.
        code: What becomes ``model.py``.
        takes: Its inputs, named by itself, the batch dimension left out.
        gives: Its outputs.
        inputs: Ensemble tensor by its own input's name.
        outputs: Ensemble tensor by its own output's name.
        options: JSON-able; in config.pbtxt under `OPTIONS_PARAMETER`.
        beside: Files and packages (folders) by the name that they have beside the code.
        optional: Inputs that a request may leave out. An input of the ensemble is optional where all that read it are
            steps to which it is.
        requires: Packages with their versions, as in ``requirements.txt``, such as ``pillow==12.1.0``.
        input_rules: What a request must keep, by input name, as for components.
        serving: Batches, queue and instances; it is not warmed up.
        sample: One sample of the inputs, by name, without a batch axis; empty where none is known.
        labels: Label file by output name; line n names class n.
        version: Number of the version folder.
    """

    name: str
    code: Path
    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Path] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    requires: tuple[str, ...] = ()
    input_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)
    sample: Mapping[str, Array] = field(default_factory=dict)
    labels: Mapping[str, Path] = field(default_factory=dict)
    version: int = 1

    def files(self) -> Iterator[tuple[str, Path]]:
        """Give every file of the version folder by its path there, without what Python compiled."""
        yield STEP_FILENAME, self.code
        for name, path in sorted(self.beside.items()):
            if not path.is_dir():
                yield name, path
                continue
            for file in sorted(path.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    yield f"{name}/{file.relative_to(path).as_posix()}", file

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything that is served."""
        return sum(path.stat().st_size for _, path in self.files())


def require_packages(repository: Path) -> None:
    """Do nothing where what a repository's steps import is installed.

    Raises:
        EnvironmentUnfitError: Naming what is missing or of another version, and how to install it.
    """
    from importlib import metadata

    path = repository / REQUIREMENTS
    if not path.is_file():
        return
    wrong = []
    for line in path.read_text(encoding="utf-8").split():
        name, _, wanted = line.partition("==")
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{line} is not installed")
            continue
        if wanted and found != wanted:
            wrong.append(f"{name} is {found}, and this was judged with {wanted}")
    if wrong:
        raise EnvironmentUnfitError(
            f"the steps of {repository} cannot be run as they were judged: {'; '.join(wrong)}",
            hint=f"pip install -r {path} (the extra multimodal-deploy[media] holds such packages)",
        )

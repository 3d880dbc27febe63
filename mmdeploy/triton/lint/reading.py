"""A model repository as Triton reads it: its models, their versions, what it fills in itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.triton.config import WARMUP_FOLDER, SyntaxProblem, try_parse
from mmdeploy.triton.lint.positions import field_lines, line_of

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Folders of a model that are no versions (core: constants.h).
INITIAL_STATE_FOLDER = "initial_state"
NO_VERSION = frozenset({WARMUP_FOLDER, INITIAL_STATE_FOLDER, "configs"})
#: Model file of each backend that reads one (core: AutoCompleteBackendFields).
FILE_BY_BACKEND: Mapping[str, str] = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "pytorch": "model.pt",
    "python": "model.py",
}
#: The platforms that go with a backend; a backend that is not here takes any.
PLATFORMS_BY_BACKEND: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt_plan",),
    "onnxruntime": ("onnxruntime_onnx",),
    "pytorch": ("pytorch_libtorch",),
    "tensorflow": ("tensorflow_graphdef", "tensorflow_savedmodel"),
}
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Model:
    """One folder of a repository.

    Attributes:
        folder: Path of the folder; its name is the model's name.
        config: Its config.pbtxt (empty where there is none), or what is wrong with that.
        lines: Line by field path.
        versions: The version folders that Triton sees, by number.
        ignored: Names of the folders that are no versions to Triton.
    """

    folder: Path
    config: ModelConfig | SyntaxProblem
    lines: Mapping[str, int]
    versions: Mapping[int, Path]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def config_path(self) -> Path:
        """Path of the config.pbtxt, there or not."""
        return self.folder / "config.pbtxt"

    @property
    def parsed(self) -> ModelConfig:
        """The configuration; an empty one where the text cannot be read."""
        if isinstance(self.config, SyntaxProblem):
            from tritonclient.grpc.model_config_pb2 import ModelConfig

            return ModelConfig()
        return self.config

    @property
    def is_ensemble(self) -> bool:
        """Whether the configuration says so in either way."""
        return bool(self.parsed.platform == ENSEMBLE or self.parsed.HasField("ensemble_scheduling"))

    @property
    def backend(self) -> str:
        """The backend that the configuration names, or that Triton finds by platform and file names."""
        config = self.parsed
        if config.backend or self.is_ensemble:
            return str(config.backend)
        for backend, platforms in PLATFORMS_BY_BACKEND.items():
            if config.platform in platforms:
                return backend
        if config.platform:
            return ""
        first = self.versions[min(self.versions)] if self.versions else None
        for backend, filename in FILE_BY_BACKEND.items():
            there = first is not None and (first / filename).exists()
            if (config.default_model_filename or (filename if there else "")) == filename:
                return backend
        # A model folder named "x.custom" is served by the backend "custom".
        return self.name.partition(".")[2] if not config.default_model_filename else ""

    @property
    def filename(self) -> str | None:
        """Name of the model file that the backend reads; None where that cannot be known from here."""
        if self.is_ensemble:
            return None
        return self.parsed.default_model_filename or FILE_BY_BACKEND.get(self.backend)

    @property
    def served_versions(self) -> tuple[int, ...]:
        """The versions that the version policy takes, newest first."""
        newest_first = sorted(self.versions, reverse=True)
        policy = self.parsed.version_policy
        if policy.HasField("specific"):
            return tuple(version for version in newest_first if version in policy.specific.versions)
        if policy.HasField("all"):
            return tuple(newest_first)
        count = policy.latest.num_versions if policy.HasField("latest") else 1
        # "version_policy {}" sets none of the three, which Triton takes as all.
        if self.parsed.HasField("version_policy") and not policy.WhichOneof("policy_choice"):
            count = len(newest_first)
        return tuple(newest_first[:count])

    def line(self, path: str) -> int | None:
        """Return the line of a field."""
        return line_of(self.lines, path)


@dataclass(frozen=True)
class Repositories:
    """All models that one server would load.

    Attributes:
        models: Every model folder, in the order of the repositories.
        by_name: The models whose name is there only once.
    """

    models: tuple[Model, ...]
    by_name: Mapping[str, Model] = field(default_factory=dict)

    def same_name(self, model: Model) -> list[Model]:
        """Return the other models with this one's name."""
        return [other for other in self.models if other.name == model.name and other is not model]


def read(paths: Iterable[Path]) -> Repositories:
    """Read model repositories; every folder in one is a model to Triton, hidden ones included."""
    folders = [folder for path in paths for folder in sorted(path.iterdir()) if folder.is_dir()]
    models = tuple(_read_model(folder) for folder in folders)
    names = [model.name for model in models]
    return Repositories(models, {model.name: model for model in models if names.count(model.name) == 1})


def _read_model(folder: Path) -> Model:
    path = folder / "config.pbtxt"
    config: ModelConfig | SyntaxProblem
    try:
        text = path.read_bytes().decode() if path.exists() else ""
    except UnicodeDecodeError as error:
        text, config = "", SyntaxProblem(1, f"the file is not UTF-8 text: {error.reason}")
    except OSError as error:
        text, config = "", SyntaxProblem(1, f"the file cannot be read: {error.strerror}")
    else:
        config = try_parse(text)
    versions: dict[int, Path] = {}
    ignored: list[str] = []
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        if child.name in NO_VERSION:
            continue
        # As std::stoll reads it: leading digits are enough, while "01" is left out on purpose.
        number = re.match(r"\s*([+-]?\d+)", child.name)
        if number is None or (len(child.name) > 1 and child.name.startswith("0")):
            ignored.append(child.name)
        else:
            versions.setdefault(int(number[1]), child)
    lines = {} if isinstance(config, SyntaxProblem) else field_lines(text)
    return Model(folder, config, lines, versions, tuple(ignored))

"""Rules on files and folders: what Triton checks while it polls a repository and before a backend starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmdeploy.core.errors import did_you_mean
from mmdeploy.triton.config import SyntaxProblem
from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import ENSEMBLE, FILE_BY_BACKEND, PLATFORMS_BY_BACKEND, Model, Repositories
from mmdeploy.triton.staging import KEEPER

#: How many versions a signed number of 64 bits counts.
_VERSIONS = 2**63
#: Backends that open a file and no folder.
_TAKES_FILE = ("python", "tensorrt", "openvino", "aot_inductor")


def config_syntax(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a config.pbtxt that is no ModelConfig."""
    if isinstance(model.config, SyntaxProblem):
        known = ""
        if "has no field named" in model.config.message:
            from tritonclient.grpc.model_config_pb2 import ModelConfig

            word = model.config.message.split('"')[-2]
            fields = [found.name for found in ModelConfig.DESCRIPTOR.fields]
            if '"ModelConfig"' in model.config.message:
                known = did_you_mean(word, fields)
        yield Hit(
            model.config.message,
            known or "fields are those of Triton's model_config.proto",
            line=model.config.line,
        )


def config_newer(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find fields that Triton 2.51 does not know: it refuses the whole file, newer servers read it."""
    config = model.parsed
    if config.HasField("model_metrics"):
        yield Hit(
            "model_metrics is unknown to Triton 2.51",
            "remove it, or serve with a newer Triton",
            "model_metrics",
        )
    if config.ensemble_scheduling.max_inflight_requests:
        yield Hit(
            "max_inflight_requests is unknown to Triton 2.51",
            "remove it, or serve with a newer Triton",
            "ensemble_scheduling.max_inflight_requests",
        )


def model_name(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a name in the configuration that is not the folder's."""
    if model.parsed.name and model.parsed.name != model.name:
        yield Hit(f"name is {model.parsed.name!r}, but the folder is {model.name!r}", "give both one name", "name")


def model_duplicate(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find models of one name in several repositories: Triton loads none of them."""
    for other in repositories.same_name(model):
        yield Hit(
            f"another repository has a model {model.name!r} too: {other.folder}",
            "rename one, serve one repository only, or start Triton with --model-namespacing=true",
        )


def backend_missing(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a model for which no backend is named and none can be guessed."""
    if isinstance(model.config, SyntaxProblem) or model.is_ensemble or model.backend:
        return
    if model.parsed.platform:
        known = [ENSEMBLE, *(name for names in PLATFORMS_BY_BACKEND.values() for name in names)]
        yield Hit(
            f"platform {model.parsed.platform!r} is unknown: {did_you_mean(model.parsed.platform, known)}",
            "name the backend instead",
            "platform",
        )
        return
    files = ", ".join(FILE_BY_BACKEND.values())
    yield Hit(
        f"no backend is named, and no version holds a file that Triton knows ({files})",
        'add backend: "..." to config.pbtxt, or move the folder out of the repository',
    )


def backend_platform(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a platform that contradicts the backend."""
    config = model.parsed
    if not config.backend or not config.platform:
        return
    if config.platform == ENSEMBLE:
        yield Hit("an ensemble has no backend", "remove backend", "backend")
    elif config.platform not in (fitting := PLATFORMS_BY_BACKEND.get(config.backend, (config.platform,))):
        yield Hit(
            f"platform {config.platform!r} does not go with backend {config.backend!r}, which takes "
            f"{' or '.join(fitting)}",
            "remove platform",
            "platform",
        )


def version_missing(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a model without a version to load; an ensemble needs an (empty) version folder too."""
    if model.served_versions or isinstance(model.config, SyntaxProblem):
        return
    if not model.versions and model.is_ensemble:
        yield Hit(
            "there is no version folder: an ensemble has one too, and git, object stores and zip files drop empty ones",
            f"make {model.name}/1/ and put any file in it, such as {KEEPER}",
        )
    elif not model.versions:
        yield Hit("there is no version folder", f"make {model.name}/1/ and put the model's file in it")
    else:
        there = ", ".join(str(version) for version in sorted(model.versions))
        yield Hit(
            f"version_policy takes none of the versions that are there: {there}",
            "name one of them, or remove version_policy",
            "version_policy",
        )


def version_name(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find folders that Triton takes for a version but cannot open: it drops all but the number."""
    for version, folder in model.versions.items():
        if not -_VERSIONS <= version < _VERSIONS:
            yield Hit(
                f"the folder {folder.name!r} is a number beyond 64 bits, which ends the whole server",
                f"a version is within 1 and {_VERSIONS - 1}",
            )
        elif folder.name != str(version) or version < 0:
            yield Hit(
                f"Triton reads the folder {folder.name!r} as version {version} and looks for that folder",
                f"rename it to {abs(version) or 1}",
            )


def version_ignored(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find folders that are not read at all."""
    for name in model.ignored:
        yield Hit(
            f"the folder {name!r} is ignored: a version is a number without leading zeros",
            "rename it, or move it away",
        )


def version_partly_missing(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find versions that the policy names and that are not there, while others are."""
    wanted = model.parsed.version_policy.specific.versions
    missing = [version for version in wanted if version not in model.versions]
    if missing and model.served_versions:
        yield Hit(
            f"version_policy names versions that are not there: {', '.join(map(str, missing))}",
            "remove them, or add their folders",
            "version_policy.specific.versions",
        )


def model_file(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a version folder without the file that the backend opens, or with a folder in its place."""
    if model.filename is None:
        return
    for version in model.served_versions:
        path = model.versions[version] / model.filename
        name = path.relative_to(model.folder.parent)
        if not path.exists():
            yield Hit(
                f"{name} is missing",
                f"put the model there, or set default_model_filename (now {model.filename!r})",
                "default_model_filename",
            )
        elif path.is_dir() and model.backend == "onnxruntime" and not (path / "model.onnx").is_file():
            yield Hit(f"{name} is a folder without a model.onnx", "put the model there", "default_model_filename")
        elif path.is_dir() and model.backend in _TAKES_FILE:
            yield Hit(f"{name} is a folder", "put the model's file there", "default_model_filename")


def python_model(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find Python models that are no Python, or define no TritonPythonModel."""
    if model.backend != "python" or model.filename is None:
        return
    for version in model.served_versions:
        path = model.versions[version] / model.filename
        problem = _python_problem(path) if path.is_file() else None
        if problem is not None:
            yield Hit(
                f"{path.relative_to(model.folder.parent)} {problem}",
                "a Python model is a class TritonPythonModel (Triton's python_backend)",
                "default_model_filename",
            )


def _python_problem(path: Path) -> str | None:
    import ast

    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError) as error:
        return f"is not Python: {error}"
    words = {getattr(node, "name", "") for node in ast.walk(tree)} | {
        getattr(node, "asname", "") or "" for node in ast.walk(tree)
    }
    words |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # Where names come from elsewhere or are made at run time, only running it would tell.
    return None if words & {"TritonPythonModel", "*", "globals", "exec", "setattr"} else "defines no TritonPythonModel"


def repository_agent(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find repository agents: the wheel's server has none, and dies of an empty list of them."""
    if not model.parsed.HasField("model_repository_agents"):
        return
    at = "model_repository_agents"
    agents = model.parsed.model_repository_agents.agents
    if not agents:
        yield Hit("an empty list of agents ends the whole server", "remove model_repository_agents", at)
    for agent in agents:
        yield Hit(
            f"there is no repository agent {agent.name!r}: the wheel's server has none, NVIDIA's containers 'checksum'",
            "remove it: mmdeploy serve and lint compare a release with its manifest",
            at,
        )

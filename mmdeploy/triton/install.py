"""Finds a Triton Inference Server on this machine and lays out what it needs to run.

Three places are tried, in this order: a binary that the caller names, ``tritonserver`` on PATH (a release
container or a native installation, with its own backends), and the binary in the ``nvidia-pytriton`` wheel.
The wheel has no ONNX Runtime or TensorRT backend, so there the Python-based backends in
`mmdeploy.triton.backends` stand in for them, and those that plugged-in engines bring: the same repository serves in
both.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from mmdeploy import engines
from mmdeploy.core.contracts import Engine
from mmdeploy.core.errors import EnvironmentUnfitError, PluginError
from mmdeploy.triton.control_key import ENVIRONMENT

logger = logging.getLogger(__name__)

#: The stub's file name; it lies beside the python backend's shared library.
STUB = "triton_python_backend_stub"
_STAND_INS = Path(__file__).parent / "backends"


@dataclass(frozen=True)
class Installation:
    """A Triton that can be started.

    Attributes:
        binary: The ``tritonserver`` executable.
        root: The wheel's ``pytriton/tritonserver`` folder; None for a native installation.
    """

    binary: Path
    root: Path | None

    @property
    def embedded(self) -> bool:
        """Whether this is the wheel's binary, served with the Python-based backends."""
        return self.root is not None


def find_installation(binary: Path | None = None) -> Installation:
    """Find the Triton to start.

    Args:
        binary: An executable to take instead of searching; the wheel's own binary is recognized.

    Raises:
        EnvironmentUnfitError: If there is none, or the wheel's server cannot work with this Python or NumPy.
    """
    root = _wheel_root()
    if binary is not None:
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise EnvironmentUnfitError(f"{binary} is not an executable file", hint="name a tritonserver binary")
        if root is None or binary.resolve() != (root / "bin" / "tritonserver").resolve():
            return Installation(binary.absolute(), None)
    else:
        on_path = shutil.which("tritonserver")
        if on_path is not None:
            return Installation(Path(on_path).absolute(), None)
    if root is None:
        raise EnvironmentUnfitError(
            "no Triton Inference Server: tritonserver is not on PATH and nvidia-pytriton is not installed",
            hint="pip install 'multimodal-deploy[cpu]', or name a tritonserver or the URL of a running one",
        )
    _check_python(root)
    return Installation(root / "bin" / "tritonserver", root)


def assemble_backends(
    installation: Installation, folder: Path, stand_ins: Mapping[str, Path] = MappingProxyType({})
) -> Path | None:
    """Make the backend directory of the wheel's server.

    The python backend is copied (3 MB), as Triton refuses a library that a link takes out of its folder.

    Args:
        installation: What `find_installation` gave.
        folder: A folder that does not exist yet, to make it in.
        stand_ins: Folders of Python-based backends besides our own, by the backend's name.

    Returns:
        The directory for ``--backend-directory``; None for a native installation, which has its own.
    """
    if installation.root is None:
        beside = installation.binary.resolve().parent.parent / "backends"
        return beside if beside.is_dir() else None
    python = folder / "python"
    python.mkdir(parents=True)
    for file in (installation.root / "backends" / "python").iterdir():
        if file.is_file():
            shutil.copy(file, python)
    shutil.copy(_stub(installation.root), python)
    own = {stand_in.name: stand_in for stand_in in _STAND_INS.iterdir() if (stand_in / "model.py").is_file()}
    for name, stand_in in (dict(stand_ins) | own).items():
        (folder / name).symlink_to(stand_in.resolve())
    return folder


def installed_stand_ins() -> dict[str, Path]:
    """Return the stand-ins that installed engines bring, by backend; an engine that cannot be loaded has none."""
    found: dict[str, Path] = {}
    for method in engines.METHODS.installed():
        try:
            found |= stand_in_of(engines.METHODS[method])
        except PluginError as error:
            logger.warning("the engine %s cannot be used: %s", method, error.message)
    return found


def stand_in_of(engine: Engine) -> dict[str, Path]:
    """Return an engine's stand-in by its backend; nothing where it needs none.

    Raises:
        PluginError: If its folder has no model.py.
    """
    if engine.STAND_IN is None:
        return {}
    folder = Path(engine.STAND_IN)
    if not (folder / "model.py").is_file():
        raise PluginError(f"{engine.__name__}: its STAND_IN, {folder}, is no folder with a model.py")
    return {engine.BACKEND: folder}


def server_environment(installation: Installation) -> dict[str, str]:
    """Return the environment variables to start the server with.

    The wheel's stub finds packages through the first ``python3`` on PATH, so this process's own is put there:
    no activated environment is needed. (It runs isolated: PYTHONPATH does not count, see `link_package`.)
    """
    environment = dict(os.environ)
    environment.pop(ENVIRONMENT, None)  # no model's business
    if installation.root is None:
        return environment
    libraries = [installation.root.parent.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    _prepend(environment, "LD_LIBRARY_PATH", *map(str, libraries))
    _prepend(environment, "PATH", str(Path(sys.executable).parent))
    return environment


def is_complete(repository: Path) -> bool:
    """Say whether every model's config.pbtxt names its inputs and outputs, so that no backend need be asked.

    Completing configs costs the python backend a process for each model: a second or more at the start.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    for model in (path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            text = (model / "config.pbtxt").read_text(encoding="utf-8")
            config = text_format.Parse(text, model_config_pb2.ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError):
            return False
        if not (config.input and config.output and (config.backend or config.platform)):
            return False
    return True


def link_package(folder: Path) -> None:
    """Link this mmdeploy into the server's working folder, which comes first on the stub's ``sys.path``."""
    (folder / "mmdeploy").symlink_to(Path(__file__).parents[1], target_is_directory=True)


def _prepend(environment: dict[str, str], name: str, *folders: str) -> None:
    present = [environment[name]] if environment.get(name) else []
    environment[name] = os.pathsep.join([*folders, *present])


def _wheel_root() -> Path | None:
    """Find the wheel's server without importing pytriton, which loads gevent and more."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent / "tritonserver"
    return root if (root / "bin" / "tritonserver").is_file() else None


def _stub(root: Path) -> Path:
    return root / "python_backend_stubs" / _python_version() / STUB


def _python_version() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _check_python(root: Path) -> None:
    if not _stub(root).is_file():
        stubs = sorted(path.name for path in (root / "python_backend_stubs").iterdir())
        raise EnvironmentUnfitError(
            f"nvidia-pytriton has no stub for Python {_python_version()}; it has {', '.join(stubs)}"
        )
    if not (Path(sys.executable).parent / "python3").exists():
        raise EnvironmentUnfitError(
            f"there is no python3 beside {sys.executable}: Triton's stub would use another Python's packages",
            hint="run mmdeploy from a virtual environment",
        )
    numpy = metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:
        raise EnvironmentUnfitError(
            f"NumPy {numpy} is installed, and under NumPy 2 the python stub of nvidia-pytriton gives "
            "outputs of size 0 without an error",
            hint="pip install 'numpy>=1.26,<2'",
        )

"""Settings of components that no engine depends on: how requests are grouped, instances, threads; and a server of them.

A release is served with other settings by a copy of its configurations beside links to its engines. ``max_batch_size``
is none of them: it is what clients may send, and engines are built for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import UsageError
from mmdeploy.core.temporary import hold_folder
from mmdeploy.engines import onnxruntime as onnxruntime_engine
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.config import parse, to_text
from mmdeploy.triton.options import Serving
from mmdeploy.triton.repository import is_model

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_THREADS = "intra_op_thread_count"


@dataclass(frozen=True)
class Setting:
    """How one component is served.

    Attributes:
        delay_us: How long a request may wait for others to share its batch; None: requests are not grouped.
        preferred: Batch sizes that are sent at once when reached.
        instances: Copies that run side by side; None: as Triton decides.
        threads: Within an operator of ONNX Runtime; None where the engine has no such option, or chooses itself.
    """

    delay_us: int | None = None
    preferred: tuple[int, ...] = ()
    instances: int | None = None
    threads: int | None = None

    def __str__(self) -> str:
        parts = ["not grouped" if self.delay_us is None else f"delay {self.delay_us} us"]
        parts += [f"preferred {', '.join(map(str, self.preferred))}"] if self.preferred else []
        parts += [f"instances {self.instances}"] if self.instances else []
        parts += [f"threads {self.threads}"] if self.threads else []
        return ", ".join(parts)


Settings = Mapping[str, Setting]


def present(recipe: Recipe, release: Path) -> dict[str, Setting]:
    """Return the settings of a recipe's components as a release has them.

    Raises:
        UsageError: If the release is not of this recipe, or was built with other settings.
    """
    found = {}
    for name, component in recipe.components.items():
        folder = release / f"{recipe.name}.{name}"
        if not is_model(folder):
            raise UsageError(
                f"{release} has no model {folder.name}", hint="build the recipe first: mmdeploy build RECIPE"
            )
        setting = _of_recipe(component.serving, _threads_of(recipe, name))
        config = parse((folder / "config.pbtxt").read_text("utf-8"), str(folder / "config.pbtxt"))
        served = _of_config(config, setting)
        if (served.delay_us, served.preferred) != (setting.delay_us, setting.preferred):
            raise UsageError(
                f"{release} was built with other settings of {name} ({served}) than the recipe has now ({setting})",
                hint="build the recipe first: mmdeploy build RECIPE",
            )
        found[name] = replace(served, threads=served.threads if setting.threads else None)
    return found


def _of_recipe(serving: Serving, threads: int | None) -> Setting:
    batching, group = serving.dynamic_batching, serving.instance_group
    return Setting(
        delay_us=None if batching is None else batching.max_queue_delay_us,
        preferred=() if batching is None else batching.preferred_batch_size,
        instances=None if group is None else group.count,
        threads=threads,
    )


def _threads_of(recipe: Recipe, component: str) -> int | None:
    """Return a number where the recipe may name threads: an engine that is chosen by measuring chooses them, too."""
    options = recipe.engine_options(component)
    free = recipe.automatic_engine(component) is None and isinstance(options, onnxruntime_engine.Options)
    return 1 if free else None


def _of_config(config: ModelConfig, setting: Setting) -> Setting:
    grouped = config.HasField("dynamic_batching")
    batching = config.dynamic_batching
    groups = config.instance_group
    threads = config.parameters[_THREADS].string_value if _THREADS in config.parameters else ""
    return Setting(
        delay_us=int(batching.max_queue_delay_microseconds) if grouped else None,
        preferred=tuple(batching.preferred_batch_size) if grouped else (),
        instances=groups[0].count if len(groups) == 1 else setting.instances,
        threads=int(threads) if threads else None,
    )


@contextlib.contextmanager
def served_with(release: Path, name: str, settings: Settings) -> Iterator[Path]:
    """Make a repository of a release with other settings, and remove it at the end."""
    held = hold_folder("tune")
    try:
        repository = held.path / "repository"
        for model in (entry for entry in sorted(release.iterdir()) if entry.is_dir() and is_model(entry)):
            folder = repository / model.name
            folder.mkdir(parents=True)
            for entry in model.iterdir():
                if entry.name != "config.pbtxt":
                    (folder / entry.name).symlink_to(entry.resolve())
            text = (model / "config.pbtxt").read_text("utf-8")
            setting = settings.get(model.name.removeprefix(f"{name}."))
            if setting is not None and model.name != name:
                config = parse(text, str(model / "config.pbtxt"))
                _set(config, setting)
                text = to_text(config)
            (folder / "config.pbtxt").write_text(text, "utf-8")
        yield repository
    finally:
        held.remove()


def _set(config: ModelConfig, setting: Setting) -> None:
    if setting.delay_us is None:
        config.ClearField("dynamic_batching")
    else:
        config.dynamic_batching.SetInParent()
        config.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
        del config.dynamic_batching.preferred_batch_size[:]
        config.dynamic_batching.preferred_batch_size.extend(setting.preferred)
    if setting.instances is not None:
        if not config.instance_group:
            config.instance_group.add()
        config.instance_group[0].count = setting.instances
    if setting.threads is not None:
        config.parameters[_THREADS].string_value = str(setting.threads)


def sections(before: Settings, after: Settings) -> dict[str, dict[str, Any]]:
    """Return what a variant of the recipe says of the components whose settings differ."""
    found: dict[str, dict[str, Any]] = {}
    for name, setting in after.items():
        old = before[name]
        serving: dict[str, Any] = {}
        if (setting.delay_us, setting.preferred) != (old.delay_us, old.preferred):
            grouped = {"max_queue_delay_us": setting.delay_us, "preferred_batch_size": list(setting.preferred)}
            serving["dynamic_batching"] = None if setting.delay_us is None else grouped
        if setting.instances != old.instances:
            serving["instance_group"] = {"count": setting.instances}
        section: dict[str, Any] = {"serving": serving} if serving else {}
        if setting.threads != old.threads:
            section["engine"] = {"method": "onnxruntime", "intra_op_threads": setting.threads}
        if section:
            found[name] = section
    return found

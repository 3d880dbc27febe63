"""Settings of components that no engine depends on: how requests are grouped, instances, threads; and a server of them.

A release is served with other settings by a copy of its configurations beside links to its engines. ``max_batch_size``
is none of them: it is what clients may send, and engines are built for it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import UsageError
from mmdeploy.core.temporary import hold_folder
from mmdeploy.engines.threads import THREADS
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.config import parse, to_text
from mmdeploy.triton.options import Serving
from mmdeploy.triton.repository import is_model
from mmdeploy.triton.served_step import OPTIONS_PARAMETER

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(frozen=True)
class Setting:
    """How one component is served.

    Attributes:
        delay_us: How long a request may wait for others to share its batch; None: requests are not grouped.
        preferred: Batch sizes that are sent at once when reached.
        instances: Copies that run side by side; None: as Triton decides.
        threads: Of an inference; None where the engine has none that can be changed as it is served, or chooses itself.
        engine: The method that has these threads; empty where threads are None.
    """

    delay_us: int | None = None
    preferred: tuple[int, ...] = ()
    instances: int | None = None
    threads: int | None = None
    engine: str = ""

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
        setting = _of_recipe(component.serving, _engine_with_threads(recipe, name))
        config = parse((folder / "config.pbtxt").read_text("utf-8"), str(folder / "config.pbtxt"))
        served = _of_config(config, setting)
        if (served.delay_us, served.preferred) != (setting.delay_us, setting.preferred):
            raise UsageError(
                f"{release} was built with other settings of {name} ({served}) than the recipe has now ({setting})",
                hint="build the recipe first: mmdeploy build RECIPE",
            )
        found[name] = served
    return found


def _of_recipe(serving: Serving, engine: str) -> Setting:
    batching, group = serving.dynamic_batching, serving.instance_group
    return Setting(
        delay_us=None if batching is None else batching.max_queue_delay_us,
        preferred=() if batching is None else batching.preferred_batch_size,
        instances=None if group is None else group.count,
        engine=engine,
    )


def _engine_with_threads(recipe: Recipe, component: str) -> str:
    """Return the engine whose threads may be changed; empty where it has none, or is chosen by measuring, with them."""
    if recipe.automatic_engine(component) is not None:
        return ""
    method = method_of(recipe.engine_options(component))
    return method if method in THREADS and not THREADS[method].fixed else ""


def _of_config(config: ModelConfig, setting: Setting) -> Setting:
    grouped = config.HasField("dynamic_batching")
    batching = config.dynamic_batching
    groups = config.instance_group
    words = THREADS.get(setting.engine)
    told = words is not None and words.parameter in config.parameters
    threads = config.parameters[words.parameter].string_value if words is not None and told else ""
    return Setting(
        delay_us=int(batching.max_queue_delay_microseconds) if grouped else None,
        preferred=tuple(batching.preferred_batch_size) if grouped else (),
        instances=groups[0].count if len(groups) == 1 else setting.instances,
        threads=int(threads) if threads else None,
        engine=setting.engine if threads else "",
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
        _join(repository, {f"{name}.{part}" for part in settings})
        yield repository
    finally:
        held.remove()


def _join(repository: Path, components: Collection[str]) -> None:
    """Say anew, of steps that ask for other models, whether rows of several requests are asked for together.

    That goes with how these are served: so does the build that takes the settings.
    """
    configs = {
        path.parent.name: parse(path.read_text("utf-8"), str(path)) for path in repository.glob("*/config.pbtxt")
    }
    for name, config in configs.items():
        if OPTIONS_PARAMETER not in config.parameters:
            continue
        options = json.loads(config.parameters[OPTIONS_PARAMETER].string_value)
        asked = [one for one in dict(options.get("inputs", {})).values() if isinstance(one, dict) and "joins" in one]
        for one in asked:
            steps = configs[one["model"]].ensemble_scheduling.step
            parts = [part for part in ({step.model_name for step in steps} or {one["model"]}) if part in components]
            served = [configs[part] for part in parts]
            if served:  # else none of its parts is served with other settings than it was built for
                one["joins"] = all(
                    part.HasField("dynamic_batching") and not part.response_cache.enable for part in served
                )
        if asked:
            config.parameters[OPTIONS_PARAMETER].string_value = json.dumps(options, sort_keys=True)
            (repository / name / "config.pbtxt").write_text(to_text(config), "utf-8")


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
        config.parameters[THREADS[setting.engine].parameter].string_value = str(setting.threads)


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
            section["engine"] = {"method": setting.engine, THREADS[setting.engine].option: setting.threads}
        if section:
            found[name] = section
    return found

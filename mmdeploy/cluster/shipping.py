"""What travels between machines besides results: the recipe's folder, and what its callables were seen to read.

The folder goes through the place that machines share as an entry like any other: content by content, each sent once
and verified when it is taken. Ray's own way has a limit on size, and sends all of it for each build. What the recipe
names by a path or a glob that leads out of its folder, such as ``../lora``, travels with it and lies there as it does
here; a path that is absolute means the same place on every node.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from mmdeploy.core.errors import StoreError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store, translated
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.model.reads import Reading, Readings, is_ours
from mmdeploy.model.weight_files import INDEX, files_of
from mmdeploy.planning.recipe_inputs import codes_of, digest_of, matching, source_of
from mmdeploy.recipe.media_wiring import steps_of

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: Folders of recipes that a node keeps.
_KEPT = 8
#: A folder that the recipe's lies in, for each level that it leads out of its own.
_BESIDE = ".recipe/"


def send_folder(recipe: Recipe, store: Store) -> str:
    """Send the recipe's folder to the place that machines share; return the key that it lies there under.

    Raises:
        StoreError: If it could not be sent.
    """
    assert store.shared is not None
    root = recipe.root.resolve()
    up = _BESIDE * _levels_up(recipe)
    files = {f"{up}{path.relative_to(root).as_posix()}": path for path in _files(root)}
    for named in _outside(recipe):
        for path in chain.from_iterable(map(_files_of, _found(named, root))):
            inside = os.path.normpath(f"{up}{os.path.relpath(path, root)}")
            files[Path(inside).as_posix()] = path
    digests = {name: store.facts.sha256(path) for name, path in sorted(files.items())}
    key = hashlib.sha256(json.dumps(["recipe folder", digests]).encode()).hexdigest()
    with temporary_folder("recipe") as folder:
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path)
        store.shared.send(key, folder)
    return key


def take_folder(key: str, shared: SharedStore, cache: Path) -> Path:
    """Return where a recipe's folder lies on this machine, taken from the place that machines share.

    Raises:
        StoreError: If it is not there, or not whole.
    """
    place = cache / "recipes" / key
    if not place.is_dir():
        staged = place.with_name(f".{key}-{os.getpid()}")
        with translated(cache):
            staged.mkdir(parents=True)
            try:
                if not shared.take(key, staged):
                    raise StoreError(f"the recipe's folder is not at {shared}", hint="build again")
                _placed(staged, place)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
        _drop_oldest(place)
    os.utime(place)
    return place


def at(recipe: Recipe, taken: Path) -> Recipe:
    """Return a recipe as if it had been read where `take_folder` put it."""
    root = taken / (_BESIDE * _levels_up(recipe))
    told = {
        name: section.model_copy(update={"files": tuple(_told_inside(one, recipe.root) for one in section.files)})
        for name, section in (("model", recipe.model), ("data", recipe.data))
        if section.files is not None
    }
    moved = recipe.model_copy(update={"folder": None, **told})
    moved._origin = replace(recipe.origin, path=root / recipe.origin.path.name)
    return moved


def readings_of(recipe: Recipe, store: Store) -> dict[str, Reading]:
    """Return what the recipe's callables would read now, by reference, as far as it is known."""
    known = Readings(store, recipe.root.resolve())
    found = {
        reference: known.now(reference, digest_of(source_of(code, store.facts)))
        for reference, code in codes_of(recipe, store.facts).items()
    }
    return {reference: reading for reference, reading in found.items() if reading is not None}


def keep_readings(recipe: Recipe, store: Store, readings: Mapping[str, Reading]) -> None:
    """Keep what another machine knows of what the recipe's callables read."""
    codes, known = codes_of(recipe, store.facts), Readings(store, recipe.root.resolve())
    for reference, reading in readings.items():
        source = digest_of(source_of(codes[reference], store.facts))
        known.keep(reference, source, reading, whole=reference == recipe.model.factory)


def variables_of(recipe: Recipe, store: Store) -> dict[str, str | None]:
    """Return the environment variables that the recipe's code asks for by name; None for those that are not set."""
    names = {name for code in codes_of(recipe, store.facts).values() for name in code.variables}
    return {name: os.environ.get(name) for name in sorted(names)}


def _told_inside(pattern: str, root: Path) -> str:
    """Return an absolute glob that leads into the recipe's folder relative to it; others as they are."""
    inside = next((place for place in (root, root.resolve()) if PurePath(pattern).is_relative_to(place)), None)
    return pattern if inside is None else PurePath(pattern).relative_to(inside).as_posix()


def _named(recipe: Recipe) -> Iterator[Path]:
    """Give the files, folders and globs that a recipe names for its model, its data and its steps."""
    if recipe.model.weights is not None:
        yield recipe.model.weights
    yield from recipe.model.adapters.values()
    for _, _, step in steps_of(recipe):
        yield from step.paths.values()
    yield from map(Path, (*(recipe.model.files or ()), *(recipe.data.files or ())))


def _outside(recipe: Recipe) -> list[str]:
    """Return those that lie out of its folder, as relative paths without detours."""
    found = (os.path.normpath(path) for path in _named(recipe) if not path.is_absolute())
    return sorted({path for path in found if Path(path).parts[:1] == ("..",)})


def _found(named: str, root: Path) -> Iterator[Path]:
    """Give what a path names, or a glob finds."""
    place = root / named
    yield from [place] if place.exists() else matching([named], root)


def _levels_up(recipe: Recipe) -> int:
    return max((Path(path).parts.count("..") for path in _outside(recipe)), default=0)


def _files_of(named: Path) -> Iterator[Path]:
    """Give a file, a folder's files, or an index with its shards; of what is missing nothing: who needs it says so."""
    if named.is_dir():
        yield from _files(named)
    elif named.is_file():
        yield named
        if named.name.endswith(INDEX):
            yield from files_of(named)


def _files(root: Path) -> Iterator[Path]:
    """Give the files of a folder, links followed: without what is hidden, environments, and what mmdeploy makes."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if _goes(f"{folder}/{name}", name)]
        for name in names:
            path = Path(folder, name)
            if not name.startswith((".", "__pycache__")) and path.is_file():
                yield path


def _goes(path: str, name: str) -> bool:
    if name.startswith((".", "__pycache__")) or is_ours(path, ""):
        return False
    return not os.path.isfile(f"{path}/pyvenv.cfg")  # noqa: PTH113 - as os.walk gives it


def _placed(staged: Path, place: Path) -> None:
    try:
        staged.rename(place)
    except OSError:
        if not place.is_dir():  # another step of the build was faster
            raise


def _drop_oldest(place: Path) -> None:
    kept = [one for one in place.parent.iterdir() if not one.name.startswith(".")]
    for old in sorted(kept, key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)

"""Classes of a matrix that this machine is not of: their builds, whole, on nodes of a cluster that are.

The node does what the same command does there: it plans for itself, builds, serves, judges. What came of it, report and
release, goes through the place that machines share, and is published here.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mmdeploy.building.settings import Settings
from mmdeploy.cluster.connection import LOCAL
from mmdeploy.cluster.errands import Errand, Errands
from mmdeploy.cluster.known_nodes import KnownNodes
from mmdeploy.cluster.nodes import Node, wanted_of
from mmdeploy.cluster.remote import cache_folder
from mmdeploy.cluster.shipping import at, keep_readings, readings_of, send_folder, take_folder, variables_of
from mmdeploy.core.errors import StepError, StoreError, UsageError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store, translated
from mmdeploy.core.target import this_hardware
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.model.reads import Reading
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.recipe.schema import Recipe
from mmdeploy.studies.classes import HardwareClass, classes_of
from mmdeploy.studies.matrix_cell import Cell, Row
from mmdeploy.studies.study import Identity
from mmdeploy.triton.repository import publish
from mmdeploy.triton.staging import read_manifest

#: Set there as they are here, or not at all: how many threads libraries use by themselves.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_REPORT, _RELEASE, _LOG = "report", "release", "node.log"


@dataclass(frozen=True)
class Job:
    """A build of one class.

    Attributes:
        one: The class.
        recipe: For it.
        shared: The place that machines share.
        folder: Key of the recipe's folder there.
        result: Key that report and release are sent under.
        readings: What is known of what the recipe's callables read, by reference.
        jobs: Steps at once; None for as many as there are cores.
    """

    one: HardwareClass
    recipe: Recipe
    shared: SharedStore
    folder: str
    result: str
    readings: Mapping[str, Reading]
    jobs: int | None


@dataclass(frozen=True)
class Done:
    """What came of it.

    Attributes:
        row: With paths relative to what was sent, and the release's id as what is published.
        readings: What is known now of what the recipe's callables read.
    """

    row: Row
    readings: Mapping[str, Reading]


class Elsewhere:
    """The builds of classes that nodes of the cluster are of; a context manager that ends those that still run."""

    def __init__(self, cells: Sequence[Cell], settings: Settings) -> None:
        """Look at the cluster that this process is connected to, and send each class to a node of it.

        Args:
            cells: The classes.
            settings: How to build; without a cluster, or on one of this machine alone, nothing is sent.

        Raises:
            UsageError: If there is no place to share results at.
            StoreError: If the recipe's folder cannot be sent.
        """
        self._settings, self._results = settings, dict[str, str]()
        self._nodes, self._errands = tuple[Node, ...](), None
        others = [cell for cell in cells if not cell.here]
        if settings.on in (None, LOCAL) or not others:
            return
        self._store = Store(settings.workdir / "store", settings.shared)
        nodes = KnownNodes(wanted_of(take_fingerprints(others[0].recipe, self._store)), own=False)
        self._nodes, self._errands = nodes.alive(), Errands(nodes)
        wanted = [cell for cell in others if any(_fits(node, cell.one) for node in self._nodes)]
        wanted = [cell for cell in wanted if cell.judged_elsewhere(cell.identity()) is None]
        if wanted:
            self._send(wanted)

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        if self._errands is not None:
            self._errands.__exit__(*error)

    def row(self, cell: Cell) -> Row:
        """Return what came of a class: on its node where it was sent to one, else what this machine can do."""
        if cell.one.name in self._results:
            return self._row_there(cell)
        row = cell.row()
        if cell.here or row.machine or self._errands is None:
            return row
        return replace(row, reason=f"{row.reason}; {self._missing(cell.one)}")

    def _send(self, cells: Sequence[Cell]) -> None:
        assert self._errands is not None
        names = ", ".join(cell.one.name for cell in cells)
        shared = self._settings.shared
        if shared is None:
            raise UsageError(
                f"{names}: to be built on other nodes of the cluster, which need a place for results",
                hint="name one with --store, such as s3://bucket/prefix or a path on a shared disk",
            )
        if shared.read_only:
            raise UsageError(f"{names}: nodes of the cluster send what they build to --store, which is read only here")
        shared.require()
        folder = send_folder(cells[0].recipe, self._store)
        for cell in cells:
            one, result = cell.one, hashlib.sha256(secrets.token_bytes(32)).hexdigest()
            known = readings_of(cell.recipe, self._store)
            job = Job(one, cell.recipe, shared, folder, result, known, self._settings.jobs)
            threads: dict[str, str | None] = {name: os.environ.get(name) for name in _THREADS}
            errand = Errand(build_there, job, {**variables_of(cell.recipe, self._store), **threads})
            self._errands.send(one.name, errand, partial(_fits, one=one), gpus=int(bool(one.capability)))
            self._results[one.name] = result

    def _row_there(self, cell: Cell) -> Row:
        assert self._errands is not None
        identity = cell.identity()
        try:
            ended = self._errands.result(cell.one.name)
            if ended.kind == "done":
                return self._taken(cell, ended.content, identity)
            with translated(cell.folder):
                cell.folder.mkdir(parents=True, exist_ok=True)
                (cell.folder / _LOG).write_text(ended.log, encoding="utf-8")
            why = ended.content.message if ended.kind == "error" else ended.content
            reason = f"on {ended.node}: {why} ({cell.folder / _LOG})"
        except StepError as error:
            reason = error.message
        return Row(cell.one.name, "broke", reason, identity=identity)

    def _taken(self, cell: Cell, done: Done, identity: Identity) -> Row:
        """Take report and release, and publish here what passed there."""
        assert self._settings.shared is not None
        keep_readings(cell.recipe, self._store, done.readings)
        result, row = self._results[cell.one.name], done.row
        with temporary_folder("class") as folder, translated(cell.folder):
            self._settings.shared.look_again(result)
            if not self._settings.shared.take(result, folder):
                raise StoreError(f"what was built for {row.name} is not at {self._settings.shared}", hint="build again")
            shutil.copytree(folder / _REPORT, cell.folder, dirs_exist_ok=True)
            if row.published:
                release = folder / _RELEASE
                for name in read_manifest(release)["empty_folders"]:
                    (release / name).mkdir(parents=True, exist_ok=True)
                root = self._settings.destination / row.name
                live = publish(release, root, cell.recipe.name, release_id=row.published, extra_files={})
                row = replace(row, published=str(live))
        staged = str(cell.folder / row.staged) if row.staged else ""
        report = str(cell.folder) if row.report else ""
        return replace(row, staged=staged, report=report, identity={**row.identity, **identity})

    def _missing(self, one: HardwareClass) -> str:
        unknown = [node for node in self._nodes if node.facts.hardware is None or _is_of(node, one)]
        told = [f"{node.facts.name} takes none: {node.refused or 'Ray gives no GPU or core away'}" for node in unknown]
        if told:
            return f"on the cluster {'; '.join(dict.fromkeys(told))}"
        found = dict.fromkeys(name for node in self._nodes for name in _classes(node))
        return f"no node of the cluster is of this class (there are: {', '.join(found) or 'none that has a name'})"


def build_there(job: Job) -> Done:
    """Build a class on the machine that this runs on, and send report and release.

    Args:
        job: The build.

    Raises:
        StoreError: If something cannot be taken, written or sent.
    """
    cache = cache_folder()
    store = Store(cache / "store", job.shared)
    job.shared.require()
    with store.in_use(), temporary_folder("class") as folder:
        recipe = at(job.recipe, take_folder(job.folder, job.shared, cache))
        keep_readings(recipe, store, job.readings)
        store.facts.save()
        report, destination = folder / _REPORT, folder / "published"
        settings = Settings(workdir=cache, destination=destination, jobs=job.jobs, shared=job.shared)
        row = Cell(job.one, recipe, settings, report, this_hardware(), here=True).row()
        if row.published:
            release = Path(row.published).resolve()
            row = replace(row, published=release.name)
            release.rename(folder / _RELEASE)
        shutil.rmtree(destination, ignore_errors=True)
        staged = Path(row.staged).relative_to(report).as_posix() if row.staged else ""
        job.shared.send(job.result, folder)
        return Done(replace(row, staged=staged), readings_of(recipe, Store(cache / "store", job.shared)))


def _fits(node: Node, one: HardwareClass) -> bool:
    return _is_of(node, one) and not node.refused and node.cores > 0 and (not one.capability or node.gpus > 0)


def _is_of(node: Node, one: HardwareClass) -> bool:
    hardware = node.facts.hardware
    return hardware is not None and one.is_here(hardware, [name.upper() for name in node.facts.capabilities])


def _classes(node: Node) -> tuple[str, ...]:
    return () if node.facts.hardware is None else classes_of(node.facts.hardware, node.facts.capabilities)

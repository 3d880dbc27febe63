"""One class of hardware in a matrix: its build on a machine of the class, or as much of it as any machine can do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.choice.record import engine_choice
from mmdeploy.core.contracts import Verdict, method_of
from mmdeploy.core.errors import MmdeployError, StoreError
from mmdeploy.core.store import Store
from mmdeploy.core.target import Hardware
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import recorded_in
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.observer import Silent
from mmdeploy.record.plain_json import jsonable
from mmdeploy.report import write_all
from mmdeploy.studies.classes import HardwareClass, classes_here
from mmdeploy.studies.objectives import Figure, figures_of
from mmdeploy.studies.reasons import why
from mmdeploy.studies.space import Space
from mmdeploy.studies.study import Identity, changes, identity_of

#: ``absent``: only a machine of the class can build it.
Status = Literal["pass", "fail", "inconclusive", "broke", "absent"]
ROW = "row.json"
COMPARED = ("accuracy", "latency", "bytes")
#: Engines that hold the instructions of the machine that built them.
_FOR_ITS_MACHINE = ("aot_inductor",)
#: What may differ from machine to machine.
_OF_A_MACHINE = ("machine", "library ", "package ")


@dataclass(frozen=True)
class Row:
    """What came of one class.

    Attributes:
        name: Of the class.
        status: See `Status`.
        reason: Why it is no pass; empty where it is one.
        engines: What runs the components, without repeats.
        figures: Figures of a machine of the class; bytes of any.
        machine: That judged it; empty where none did.
        at: When it was judged, UTC; empty where it was not.
        published: Folder of the release that is live; empty where there is none.
        staged: Folder of what was built; empty where nothing was.
        report: Folder of its report; empty where nothing was built.
        identity: What it was built from, without what belongs to a machine.
    """

    name: str
    status: Status
    reason: str = ""
    engines: tuple[str, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict)
    machine: str = ""
    at: str = ""
    published: str = ""
    staged: str = ""
    report: str = ""
    identity: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {name: jsonable(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Cell:
    """One class of the matrix on this machine.

    Attributes:
        one: The class.
        recipe: For this class.
        settings: How to build.
        folder: Of its report.
        hardware: This machine.
        here: Whether this machine is of the class.
    """

    one: HardwareClass
    recipe: Recipe
    settings: Settings
    folder: Path
    hardware: Hardware
    here: bool

    def row(self) -> Row:
        """Build it, or take what a machine of the class came to."""
        identity = self.identity()
        if not self.here:
            if (known := self.judged_elsewhere(identity)) is not None:
                return known
            if (reason := self._only_there()) is not None:
                return Row(self.one.name, "absent", reason, identity=identity)
        settings = replace(
            self.settings,
            destination=self.settings.destination / self.one.name,
            runs_in=self.folder,
            publishes=self.here or self.settings.publish_unverified,
        )
        outcome = run_build(self.recipe, settings, Silent())
        if (error := outcome.error) is not None and (
            isinstance(error, StoreError) or not isinstance(error, MmdeployError)
        ):
            raise error
        write_all(outcome.report, self.folder)
        return self._row_of(outcome, {**self.identity(), **identity})

    def _row_of(self, outcome: Outcome, identity: Identity) -> Row:
        report = outcome.report
        judged = self.here and report.substitute is None and outcome.error is None
        row = Row(
            self.one.name,
            "broke" if outcome.error is not None else _STATUS[report.verdict],
            why(outcome),
            tuple(dict.fromkeys(_engine_of(outcome, name) for name in self.recipe.components)),
            figures_of(report, self.recipe, COMPARED if judged else ("bytes",)),
            str(self.hardware) if judged else "",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M}" if judged else "",
            str(report.published or ""),
            str(report.staged),
            str(self.folder),
            dict(identity),
        )
        if judged or row.status in ("fail", "broke"):
            return row if self.here or row.status == "broke" else replace(row, reason=f"on this machine: {row.reason}")
        here = ", ".join(classes_here(self.hardware)) or "none that has a name"
        reason = f"built here, to be judged on a machine of this class; this one is of {here}"
        return replace(row, status="inconclusive", reason=reason)

    def judged_elsewhere(self, identity: Identity) -> Row | None:
        """Return what a machine of the class came to for the same recipe; None where there is nothing."""
        try:
            fields = json.loads((self.folder / ROW).read_text(encoding="utf-8"))
            figures = {name: Figure(**one) for name, one in fields.pop("figures").items()}
            row = Row(**{**fields, "figures": figures, "engines": tuple(fields["engines"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return row if row.machine and not changes(row.identity, identity) else None

    def _only_there(self) -> str | None:
        """Say why only a machine of the class can build it; None where this one can, too."""
        if not self.one.ahead_of_time:
            return f"needs a machine of this class: {self.one.target} builds on the GPU that serves"
        compiled = [name for name in self.recipe.components if self._method(name) in _FOR_ITS_MACHINE]
        if compiled:
            return f"needs a machine of this class: engines are compiled for the machine ({', '.join(compiled)})"
        store = Store(self.settings.workdir / "store")
        plan = make_plan(self.recipe, take_fingerprints(self.recipe, store), contents=recorded_in(store))
        measured = list(dict.fromkeys(step.component for step in plan.steps if step.exclusive))
        if measured:
            return (
                "needs a machine of this class: what ships is chosen by measuring there "
                f"({', '.join(measured)}); keep: always, and no engine: auto, can be built here"
            )
        return None

    def _method(self, name: str) -> str:
        return method_of(self.recipe.engine_options(name))

    def identity(self) -> dict[str, str]:
        """Return what it is built from, without what belongs to a machine."""
        store = Store(self.settings.workdir / "store")
        found = identity_of(self.recipe, Space(()), store)
        store.facts.save()
        return {label: text for label, text in found.items() if not label.startswith(_OF_A_MACHINE)}


_STATUS: dict[Verdict, Status] = {
    Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INCONCLUSIVE: "inconclusive",
}  # fmt: skip


def _engine_of(outcome: Outcome, component: str) -> str:
    """Return what runs a component: what was chosen by measuring, or else the engine's name."""
    choice = engine_choice(outcome.artifacts.get(f"{component}/engine"))
    if choice is not None:
        return choice.chosen
    return next((step.method for step in outcome.report.steps if step.id == f"{component}/engine"), "-")

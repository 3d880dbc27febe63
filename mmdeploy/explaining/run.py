"""Explain a gate that did not pass: what its report tells, and what is measured anew on what the store has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.building.builder import run_build
from mmdeploy.building.judge import EvaluationRecord, served
from mmdeploy.building.served_ensemble import candidate_ensemble, reference_ensemble
from mmdeploy.building.settings import Settings
from mmdeploy.building.staged import staged
from mmdeploy.building.wired import wired
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.store import Store
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.explaining import reported
from mmdeploy.explaining.findings import Explanation, Section, concluded, loss
from mmdeploy.explaining.swapped import Besides, Swapped, cannot_be_swapped, swapped
from mmdeploy.gates import accuracy
from mmdeploy.gates.in_process import InProcessDeployment
from mmdeploy.planning.chains import original_graph
from mmdeploy.planning.steps import DATA_SETS, ORIGINAL, only_step
from mmdeploy.recipe.cascade_stages import stages
from mmdeploy.record.build_report import BASELINE, BuildReport, GateRecord
from mmdeploy.report.sensitivities import sensitivities
from mmdeploy.report.units import check_text, remark_text
from mmdeploy.report.wording import unique_names

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.core.contracts import Runner, WiredComponent
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.observer import Observer
    from mmdeploy.scoring.findings import Sensitivity

_KNOWN = ("accuracy", "parity", "latency", "size", BASELINE)
#: Layer groups that are shown of a component.
_MOST_GROUPS = 12


@dataclass(frozen=True)
class Asked:
    """What is to be explained, and how far.

    Attributes:
        gate: The gate's name in the report, such as ``accuracy`` or ``accuracy 2``.
        recipe: What was built; None where only the report is to tell.
        workdir: Folder of the store.
        groups: Whether layer groups are measured, where the report does not hold them.
        passed: Whether a gate that passed is explained, too.
    """

    gate: str
    recipe: Recipe | None
    workdir: Path
    groups: bool = True
    passed: bool = False


def named_gate(report: BuildReport, name: str) -> tuple[int, GateRecord]:
    """Return a gate of a report by its name, with its number.

    Raises:
        UsageError: If there is none.
    """
    names = [one for one, _ in unique_names(report.gates)]
    if not names:
        raise UsageError("this build was not judged by any gate: there is nothing to explain")
    if name not in names:
        raise UsageError(f"the report has no gate {name!r}; {did_you_mean(name, names)}")
    return names.index(name), report.gates[names.index(name)]


def explained(report: BuildReport, asked: Asked, observer: Observer) -> Explanation:
    """Say where it went.

    Raises:
        UsageError: If the gate is not in the report, passed, or is one that is not known; if the store does not have
            what the report tells of.
        ServerError: If Triton refuses a repository.
    """
    index, gate = named_gate(report, asked.gate)
    if gate.gate not in _KNOWN:
        raise UsageError(
            f"gates of the method {gate.gate!r} are not explained; accepted: {', '.join(_KNOWN)}",
            hint="its checks in the report say all that is known",
        )
    if gate.verdict is Verdict.PASS and not asked.passed:
        raise UsageError(
            f"the gate {asked.gate} passed: it lost nothing that its limits do not allow",
            hint="--passed explains it all the same",
        )
    missed = tuple(_missed(gate))
    found = Explanation(asked.gate, gate.verdict.value, missed, (), ())
    if gate.gate == "size":
        section, told = reported.sizes(report)
        return replace(found, sections=(section,), conclusions=(told,))
    if gate.gate == "latency":
        sections, told = reported.latency(report)
        return replace(found, sections=tuple(sections), conclusions=(told,))
    if gate.gate == "parity":
        return _parity(found, report, gate, asked, observer)
    if gate.gate == BASELINE:
        return _baseline(found, report, gate, asked, observer)
    return _accuracy(found, report, index, asked, observer)


def _missed(gate: GateRecord) -> Iterator[str]:
    for check in gate.checks:
        if check.verdict is not Verdict.PASS:
            measured = " ".join(part for part in check_text(check) if part)
            remark = f" ({remark_text(check)})" if remark_text(check) else ""
            yield f"{check.name}: {measured}, limit {check.limit}: {check.verdict.value}{remark}"


def _parity(found: Explanation, report: BuildReport, gate: GateRecord, asked: Asked, observer: Observer) -> Explanation:
    section, told = reported.parity(gate)
    worst = next((one.what.split(".")[0] for one in section.shares if "end to end" not in one.what), None)
    groups, note = _groups(report, worst, asked, observer)
    hint = [f"`mmdeploy debug {report.recipe.path} {worst}` names the first tensor that is off"] if worst else []
    return replace(
        found,
        sections=(*reported.stages(report, None), section, *groups),
        conclusions=(told, *hint),
        not_measured=tuple(note),
    )


def _baseline(
    found: Explanation, report: BuildReport, gate: GateRecord, asked: Asked, observer: Observer
) -> Explanation:
    """Cut what this build loses against its own original: what the accepted one was made of is not in the report."""
    missed = [check.name for check in gate.checks if check.verdict is not Verdict.PASS] or [""]
    told = ["`mmdeploy compare BASELINE REPORT` says what changed since the baseline, and which samples flipped"]
    parts: list[Explanation] = []
    if any(name.startswith("size") for name in missed):
        section, said = reported.sizes(report)
        parts.append(replace(found, sections=(section,), conclusions=(said,)))
    scored = [number for number, one in enumerate(report.gates) if one.gate == "accuracy"]
    if scored and any(name.endswith(("drop", "gain")) for name in missed):
        parts.append(_accuracy(found, report, scored[0], asked, observer))
    if any(" ratio" in name and not name.startswith("size") for name in missed):
        sections, said = reported.latency(report)
        parts.append(replace(found, sections=tuple(sections), conclusions=(said,)))
    return replace(
        found,
        sections=tuple(section for part in parts for section in part.sections),
        conclusions=(*(said for part in parts for said in part.conclusions), *told),
        not_measured=tuple(note for part in parts for note in part.not_measured),
    )


def _accuracy(found: Explanation, report: BuildReport, index: int, asked: Asked, observer: Observer) -> Explanation:
    metric = str(report.gates[index].details.get("metric"))
    sections: list[Section] = [*reported.stages(report, metric)]
    came, why_not = _swapped(report, index, asked, observer)
    notes = [why_not] if why_not else []
    conclusions: list[str] = []
    worst = None
    if came is not None:
        sections += came.sections
        conclusions.append(came.conclusion)
        worst = came.worst
    groups, note = _groups(report, worst, asked, observer)
    if groups and worst and not _passes_on_module(report, worst):
        conclusions.append(f"{worst}: {concluded(groups[0].shares, 'layer group')}")
    return replace(
        found,
        sections=(*sections, *groups),
        conclusions=tuple(conclusions) or ("what the report holds is above; nothing was measured anew",),
        not_measured=(*notes, *note),
    )


def _swapped(report: BuildReport, index: int, asked: Asked, observer: Observer) -> tuple[Swapped | None, str]:
    recipe = asked.recipe
    if recipe is None:
        return None, "components were not swapped: that needs the recipe and the store"
    if report.substitute is not None:
        return None, "components were not swapped: engines that do not run here were judged by a substitute"
    options = recipe.gates[index] if index < len(recipe.gates) else None
    if not isinstance(options, accuracy.Options):
        return None, "components were not swapped: the recipe's gates are not those of the report"
    store = Store(asked.workdir / "store")
    with store.in_use(), temporary_folder("explain") as folder:
        artifacts = stored(report, store)
        sides = (
            staged(folder / "candidate", candidate_ensemble(recipe, artifacts)),
            staged(folder / "reference", reference_ensemble(recipe, artifacts, {})),
        )
        components = wired(recipe, sides[0].ensemble, artifacts)
        samples = SampleSet.open(artifacts[DATA_SETS["evaluation"]].path.parent, str(recipe.data.evaluation))
        record = EvaluationRecord(samples, artifacts[ORIGINAL])
        observer.step_started("swap")
        with served(recipe, sides, record, components, logs=folder / "logs") as both:
            evidence = replace(
                both.evidence, progress=lambda done, total, what: observer.progress("swap", done, total, what)
            )
            outputs = accuracy.opened(options, evidence.ensemble_outputs, evidence.root).outputs
            if why := cannot_be_swapped(evidence, tuple(outputs)):
                return None, why
            passed = tuple(name for name in recipe.components if _passes_on_module(report, name))
            came = swapped(options, evidence, _besides(recipe, components, artifacts, passed))
        observer.work_finished("swap", f"{len(components)} components, each alone and each taken back")
    return came, ""


def _besides(
    recipe: Recipe, components: tuple[WiredComponent, ...], artifacts: Mapping[str, Artifact], passed: tuple[str, ...]
) -> Besides:
    """Open what is asked besides both servers: graphs in this process."""
    from mmdeploy.engines import onnxruntime

    def deployment(steps: Mapping[str, str]) -> InProcessDeployment:
        def opened(step: str) -> Callable[[], Runner]:
            return lambda: onnxruntime.load(artifacts[step], onnxruntime.Options())

        return InProcessDeployment(components, {name: opened(step) for name, step in steps.items()}, (), {})

    only_early = stages(recipe).early_only if recipe.cascade is not None else ()
    return Besides(
        unquantized=deployment({name: f"{name}/export" for name in passed}),
        passed=passed,
        cascade=recipe.cascade,
        originals=deployment({name: original_graph(recipe, name) for name in only_early}),
        only_early=only_early,
    )


def stored(report: BuildReport, store: Store) -> Mapping[str, Artifact]:
    """Return what the steps of a build made.

    Raises:
        UsageError: If a report tells no steps, or the store does not have what one made.
    """
    made = [step for step in report.steps if step.key and step.status in ("ran", "reused")]
    if len(made) < 2:
        raise UsageError(
            "this report tells no steps, as a baseline does: components cannot be swapped",
            hint="name the report.json of the build, in its run's folder or its release",
        )
    found, gone = {}, []
    for step in made:
        artifact = store.get(step.key)
        if artifact is None:
            gone.append(step.id)
        else:
            found[step.id] = artifact
    if gone:
        raise UsageError(
            f"the store {store.root} does not have what {gone[0]} made"
            + (f", nor {len(gone) - 1} other steps" if gone[1:] else ""),
            hint="name the build's work folder with --workdir, or build again, or let the report tell: --report-only",
        )
    return found


def _groups(
    report: BuildReport, component: str | None, asked: Asked, observer: Observer
) -> tuple[tuple[Section, ...], list[str]]:
    """Return the layer groups of a component, measured where the report does not hold them, and why not."""
    if component is None:
        return (), []
    known = dict(sensitivities(report)).get(component)
    if known is not None:
        return (_group_section(report, component, known),), []
    recipe = asked.recipe
    why = ""
    if recipe is None or not asked.groups:
        why = "that was not asked for"
    elif component not in recipe.components or recipe.components[component].quantize is None:
        why = "it has no INT8"
    elif recipe.data.validation is None or recipe.data.calibration is None:
        why = "the recipe names no data.calibration or no data.validation to measure on"
    if why or recipe is None:
        return (), [f"layer groups of {component} were not measured: {why}"]
    outcome = run_build(
        recipe,
        Settings(workdir=asked.workdir),
        observer,
        goal="sensitivity",
        upto=only_step(f"{component}/sensitivity"),
    )
    if outcome.error is not None:
        raise outcome.error
    measured = dict(sensitivities(outcome.report)).get(component)
    if measured is None:
        return (), [f"layer groups of {component} were not measured: it has none"]
    return (_group_section(report, component, measured),), []


def _passes_on_module(report: BuildReport, component: str) -> list[str]:
    """Return the passes that changed a component's module before anything of it was quantized."""
    return [step.kind for step in report.steps if step.component == component and step.kind in ("prune", "recover")]


def _group_section(report: BuildReport, component: str, measured: Sensitivity) -> Section:
    ordered = sorted(measured.sensitivity, key=lambda one: (-(one.drop or 0.0), one.sqnr_db or 0.0))
    shares = tuple(loss(one.group, one.drop, one.drop_interval) for one in ordered[:_MOST_GROUPS])
    note = "each layer group alone in INT8, on validation samples"
    if passes := _passes_on_module(report, component):
        note += f"; what {' and '.join(passes)} cost is in every figure, so that they only tell groups from each other"
    if len(ordered) > _MOST_GROUPS:
        note += f"; {len(ordered) - _MOST_GROUPS} more lose less"
    return Section(f"{component}, layer group by layer group: loss of {measured.metric}", shares, note)

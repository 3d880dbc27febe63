"""Two builds side by side: what they were made of, what became of it, and which samples are answered differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmdeploy.baseline.same_samples import Flips, content_of, flips_of, scored_gates
from mmdeploy.record.build_report import BuildReport, CheckRecord
from mmdeploy.report import coverage
from mmdeploy.report.units import bytes_text, check_text


@dataclass(frozen=True)
class Difference:
    """Something that is not the same.

    Attributes:
        what: What it is, such as ``torch`` or ``components.fusion.quantize.samples``.
        before: In the first build; empty where it has none.
        after: In the second.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Figure:
    """A measured figure of both builds.

    Attributes:
        what: Gate and check.
        before: In the first build; an en dash where it was not measured.
        after: In the second.
        verdicts: Of both, such as ``pass → fail``; one where they agree.
    """

    what: str
    before: str
    after: str
    verdicts: str


@dataclass(frozen=True)
class BuildComparison:
    """Two builds side by side; empty parts are the same in both.

    Attributes:
        builds: What each is, in a line.
        recipe: Values of the recipes, where both are known.
        recipe_known: Whether they are, or the files are the same.
        surroundings: Machine, target, versions.
        whole: Whether both tell their steps; a baseline does not.
        steps: Steps that are in one only, or were made otherwise.
        precision: What of each component is in INT8.
        sizes: Bytes of each component.
        figures: Of the gates; those of one verdict and one figure are in it, too.
        flips: For each accuracy gate whose samples can be compared.
        incomparable: Why something was not compared, a sentence each.
    """

    builds: tuple[str, str]
    recipe: tuple[Difference, ...]
    recipe_known: bool
    surroundings: tuple[Difference, ...]
    whole: bool
    steps: tuple[Difference, ...]
    precision: tuple[Difference, ...]
    sizes: tuple[Difference, ...]
    figures: tuple[Figure, ...]
    flips: tuple[Flips, ...]
    incomparable: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its fields as JSON values."""
        return asdict(self)


def compared(
    before: BuildReport,
    after: BuildReport,
    recipes: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] = (None, None),
) -> BuildComparison:
    """Compare two builds.

    Args:
        before: The first build.
        after: The second.
        recipes: Their recipes as they were built, where they are known.
    """
    flips, why_not = _flips(before, after)
    incomparable = list(why_not)
    if None in recipes and before.recipe.sha256 != after.recipe.sha256:
        incomparable.append("The recipes differ; what in them is known of published builds only.")
    if before.recipe.name != after.recipe.name:
        incomparable.insert(0, f"These are builds of two recipes, {before.recipe.name} and {after.recipe.name}.")
    if before.hardware.to_json() != after.hardware.to_json():
        incomparable.append("They were measured on two machines: only ratios of latencies can be compared.")
    whole = all(any(step.component != "data" for step in report.steps) for report in (before, after))
    if not whole:
        incomparable.append("One of them is a baseline, which keeps no steps: what was made otherwise is not told.")
    one, other = (_flattened(recipe or {}) if None not in recipes else {} for recipe in recipes)
    return BuildComparison(
        builds=(_named(before), _named(after)),
        recipe=_differences(one, other),
        recipe_known=None not in recipes or before.recipe.sha256 == after.recipe.sha256,
        surroundings=_differences(_surroundings(before), _surroundings(after)),
        steps=_differences(_steps(before), _steps(after)) if whole else (),
        precision=_differences(_precision(before), _precision(after)) if whole else (),
        whole=whole,
        sizes=_differences(_sizes(before), _sizes(after)),
        figures=tuple(_figures(before, after)),
        flips=flips,
        incomparable=tuple(incomparable),
    )


def _named(report: BuildReport) -> str:
    at = f" at {report.recipe.revision}" if report.recipe.revision else ""
    return f"{report.recipe.name}{at}, {report.started_at:%Y-%m-%d %H:%M} UTC: {report.verdict.value}"


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Difference, ...]:
    names = [*before, *(name for name in after if name not in before)]
    pairs = ((name, before.get(name, ""), after.get(name, "")) for name in names)
    return tuple(Difference(name, one, other) for name, one, other in pairs if one != other)


def _flattened(value: Any, place: str = "") -> dict[str, str]:
    """Return the values of a recipe by their path in it."""
    if isinstance(value, Mapping) and value:
        parts = ((f"{place}.{key}" if place else str(key), item) for key, item in value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = ((f"{place}.{index}", item) for index, item in enumerate(value))
    else:
        return {place: str(value)}
    return {name: text for key, item in parts for name, text in _flattened(item, key).items()}


def _surroundings(report: BuildReport) -> dict[str, str]:
    return {
        "target": report.target.value,
        "machine": str(report.hardware),
        "instruction sets": ", ".join(report.hardware.isa),
        "Triton": report.server_version or "none",
        "judged by": report.substitute or "its own engines",
        "seed": str(report.seed),
        "multimodal-deploy": report.mmdeploy_version,
        **{name: version for name, version in report.libraries.items() if name != "mmdeploy"},
    }


def _steps(report: BuildReport) -> dict[str, str]:
    """Return what made each step's result, shortened; steps of one key made the same of the same."""
    return {step.id: f"{step.method} ({step.key[:12]})" for step in report.steps if step.key}


def _precision(report: BuildReport) -> dict[str, str]:
    return {row.cells[0]: row.sentence.removeprefix(f"{row.cells[0]}: ") for row in coverage.rows(report)}


def _sizes(report: BuildReport) -> dict[str, str]:
    return {one.component: bytes_text(one.candidate_bytes) for one in report.sizes}


def _figures(before: BuildReport, after: BuildReport) -> Iterator[Figure]:
    ours, theirs = _checks(before), _checks(after)
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        verdicts = [check.verdict.value if check is not None else "not judged" for check in (one, other)]
        yield Figure(
            name,
            "–" if one is None else check_text(one)[0],
            "–" if other is None else check_text(other)[0],
            verdicts[0] if verdicts[0] == verdicts[1] else " → ".join(verdicts),
        )


def _checks(report: BuildReport) -> dict[str, CheckRecord]:
    return {f"{gate.gate}: {check.name}": check for gate in report.gates for check in gate.checks}


def _flips(before: BuildReport, after: BuildReport) -> tuple[tuple[Flips, ...], list[str]]:
    """Compare the samples of the accuracy gates of both that score the same of the same samples."""
    samples = [content_of(report) for report in (before, after)]
    ours, theirs = scored_gates(before), scored_gates(after)
    found, why_not = [], []
    for what, gate in ours.items():
        other = theirs.get(what)
        if other is None:
            why_not.append(f"Only the first build was judged by {gate.details.get('metric')}.")
        elif None in samples or samples[0] != samples[1]:
            why_not.append(
                f"{gate.details.get('metric')}: they were judged on other samples, or it is not known on which."
            )
        else:
            flips = flips_of(gate, other, before.seed)
            why = f"{gate.details.get('metric')}: it gives no score to each sample, or the reports do not keep them."
            found.extend([flips] if flips else [])
            why_not.extend([] if flips else [why])
    return tuple(found), why_not

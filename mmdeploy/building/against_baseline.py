"""The baseline that a recipe names: refused as soon as it is known not to fit, judged by after the gates."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import BASELINE, BuildReport, gate_record

if TYPE_CHECKING:
    from pathlib import Path

    from mmdeploy.building.judge import Judgement
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.observer import Observer


class AgainstBaseline:
    """What a build is judged by besides its own gates."""

    def __init__(self, recipe: Recipe, *, wanted: bool = True) -> None:
        """Read the baseline that the recipe names, if it names one.

        Args:
            recipe: The recipe.
            wanted: Whether the build is judged at all.

        Raises:
            UsageError: If it is no report, or one of a build that did not pass.
        """
        section = recipe.baseline if wanted else None
        self._baseline: BuildReport | None = None
        if section is None:
            return
        from mmdeploy.baseline.comparable import Goals
        from mmdeploy.record.report_file import read_report

        self._file: Path = recipe.root / section.file
        self._baseline = read_report(self._file)
        self._goals = Goals(**section.limits)

    def require(self, report: BuildReport) -> None:
        """Do nothing where the build can be judged by it, as far as the report of an unfinished build tells.

        Raises:
            UsageError: With everything that keeps them from being compared.
        """
        if self._baseline is not None:
            from mmdeploy.baseline.comparable import require_comparable

            require_comparable(report, self._baseline, self._goals, finished=bool(report.gates))

    def added_to(self, judgement: Judgement, report: BuildReport, observer: Observer) -> Judgement:
        """Return a judgement with that against the baseline as one more gate.

        Args:
            judgement: What the recipe's gates came to.
            report: Of the build, with these.
            observer: Who watches.

        Raises:
            UsageError: If they cannot be compared.
        """
        if self._baseline is None:
            return judgement
        from mmdeploy.baseline.against import judged

        since = time.monotonic()
        observer.step_started(f"gates/{BASELINE}")
        result = judged(report, self._baseline, self._goals)
        if result.verdict is not Verdict.PASS:
            run = report.staged.parent
            advice = (
                f"`mmdeploy compare {self._file} {run}` says what changed since it was accepted, and "
                f"`mmdeploy explain {run} {BASELINE}` which component it is"
            )
            result = replace(result, advice=advice)
        seconds = time.monotonic() - since
        observer.gate_finished(gate_record(result, seconds=seconds))
        verdict = Verdict.of_all([judgement.verdict, result.verdict])
        return replace(
            judgement,
            results=(*judgement.results, result),
            seconds=(*judgement.seconds, seconds),
            verdict=verdict,
        )

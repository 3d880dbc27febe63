"""Why a build of a study did not pass, in one line."""

from __future__ import annotations

from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict


def why(outcome: Outcome) -> str:
    """Say what broke, or which limits were not kept; nothing of a build that passed."""
    report = outcome.report
    if report.failure is not None:
        step = f"{report.failure.step}: " if report.failure.step else ""
        return step + " ".join(report.failure.message.split())
    checks = [(gate, check) for gate in report.gates for check in gate.checks if check.verdict is not Verdict.PASS]
    told = [
        f"{gate.gate}: {check.name} {'?' if check.measured is None else f'{check.measured:.4g}'}, not {check.limit}"
        for gate, check in checks
    ]
    if not told and report.substitute:
        return f"judged by a substitute: {report.substitute}"
    return "; ".join(told)

"""How a build ends: its exit code, whether it may be published, what is said of an error and the steps it cut short."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import (
    EXIT_BUG,
    EXIT_GATE_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    MmdeployError,
    StepError,
    StoreError,
)
from mmdeploy.core.room import out_of_space
from mmdeploy.planning.steps import Step
from mmdeploy.record.build_report import Failure, StepRecord

if TYPE_CHECKING:
    from mmdeploy.building.judge import Judgement

_EXIT_BY_VERDICT = {
    Verdict.PASS: EXIT_PASS,
    Verdict.FAIL: EXIT_GATE_FAILED,
    Verdict.INCONCLUSIVE: EXIT_INCONCLUSIVE,
}


def exit_code_of(verdict: Verdict) -> int:
    """Return the code that a command ends with after a verdict."""
    return _EXIT_BY_VERDICT[verdict]


def may_publish(judgement: Judgement | None, *, unverified: bool) -> bool:
    """Say whether what was judged may be published.

    Args:
        judgement: What the gates came to; None where nothing was judged.
        unverified: Whether what only a stand-in was judged for may be.
    """
    if judgement is None or judgement.verdict is Verdict.PASS:
        return True
    failed = any(result.verdict is Verdict.FAIL for result in judgement.results)
    return bool(judgement.substitute) and not failed and unverified


def exit_code(error: BaseException) -> int:
    """Return the code that a command ends with after an error."""
    if isinstance(error, MmdeployError):
        return error.exit_code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_BUG


def placed(error: BaseException, folder: Path) -> BaseException:
    """Return an error as it is told: one of the file system in words, one of a step with a log."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        told: StoreError = out_of_space(error.filename or folder)
        told.__cause__ = error
        error = told
    if isinstance(error, MmdeployError) and error.log is None and (error.step or isinstance(error, StepError)):
        error.log = str(folder / "logs")
    return error


def unfinished(step: Step, error: BaseException | None, under_way: Mapping[str, float]) -> StepRecord:
    """Return the record of a step that gave nothing.

    Args:
        step: The step.
        error: What stopped the build; None where the step was not wanted.
        under_way: Seconds that each step had run for when the build stopped, by its id.
    """
    failed = getattr(error, "step", "")
    seconds = under_way.get(step.id, 0.0)
    why = "not reached"
    if step.id == failed:
        why = ""
    elif step.id in under_way and isinstance(error, KeyboardInterrupt):
        why = f"interrupted after {seconds:.1f} s"
    elif step.id in under_way:
        why = f"ended after {seconds:.1f} s, since {failed or 'the build'} failed"
    return StepRecord(
        id=step.id,
        component=step.component,
        kind=step.kind,
        method=step.method,
        status="failed" if step.id == failed else "skipped",
        why=why,
        seconds=seconds,
        key=step.key,
    )


def failure(error: BaseException, logs: Path, under_way: Mapping[str, float], live: Path | None) -> Failure:
    """Return what the report says of an error.

    Args:
        error: What stopped the build.
        logs: Folder of its logs.
        under_way: As for `unfinished`.
        live: The release that is live although the build stopped, or None.
    """
    log = getattr(error, "log", None)
    step, place = getattr(error, "step", ""), Path(log) if log else logs
    message = f"a bug: {type(error).__name__}: {error}"
    if isinstance(error, MmdeployError):
        message = error.message
    elif isinstance(error, KeyboardInterrupt):
        message = f"interrupted while {', '.join(under_way)} ran" if under_way else "interrupted"
    if live is not None:
        message += f"; the release is live all the same: {live}"
    return Failure(step=step, message=message, hint=getattr(error, "hint", None), log=place)

"""Every exception that mmdeploy raises on purpose, and the exit code each one ends a command with.

A failed gate is a *result* (exit 1) and is not here; a budget that cannot be met ends with its exit code. What is
here is a broken recipe, tool or environment::

    MmdeployError
    ├── UsageError                 2   the command line is wrong
    ├── RecipeError                2   the recipe is wrong; carries every Problem found
    ├── PluginError                2   a pass, an engine or a gate from outside cannot be used
    ├── StepError                  3   a step of the build failed; carries the step and the log
    │   ├── ModelError             3   the factory, its weights or a submodule
    │   ├── DataError              3   samples that the recipe's data callables gave
    │   ├── MetricError            3   a metric cannot be loaded, or gives something that is no score
    │   ├── PruneError             3   nothing to prune, too much pruned, or a module that cannot be pruned
    │   ├── ExportError            3   torch.onnx could not export a component, or the export differs
    │   ├── QuantizeError          3   calibration or quantization failed
    │   ├── TrainingError          3   training cannot start, or its loss is no longer finite
    │   ├── BudgetError            1   a search found nothing that keeps its budget; carries the best it found
    │   ├── EngineError            3   an engine could not be built or loaded
    │   ├── ServerError            3   Triton refused the repository, died, or stopped answering
    │   └── StoreError             3   no space, no permission, a damaged store
    ├── PromotionError             1   a release did not hold on a server, and was taken back
    ├── InconclusiveError          5   too little was seen to decide
    ├── InferenceError             3   a served model answered a request with an error
    └── EnvironmentUnfitError      4   a distribution, a binary, a port or hardware is missing

A message says *where*, *what is wrong*, *what is accepted* and *what to do*. Third-party exceptions are
translated at one place per module, always ``from`` the cause.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

EXIT_PASS = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_STEP_FAILED = 3
EXIT_ENVIRONMENT = 4
EXIT_INCONCLUSIVE = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class MmdeployError(Exception):
    """Root of the tree: one clear message, one optional hint, one exit code.

    Attributes:
        step: The step's id, such as ``image_encoder/quantize``; empty where no step was running.
        log: Path of the log with the details, or None.
    """

    exit_code = EXIT_STEP_FAILED
    step: str = ""
    log: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process boundaries whole: a worker's error is shown by the parent."""
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(kind: type[MmdeployError], args: tuple[object, ...], state: dict[str, object]) -> MmdeployError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(MmdeployError):
    """The command line is wrong."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        where: File, line and path, such as ``recipe.yaml:31 components.image_encoder.quantize.method``.
        message: What is wrong and what is accepted.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}\n    {self.message}"


class RecipeError(MmdeployError):
    """The recipe is wrong; every problem found is reported at once."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__(f"{count} in the recipe\n" + "\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class PluginError(MmdeployError):
    """A pass, an engine or a gate from outside cannot be loaded, or is none."""

    exit_code = EXIT_USAGE


class StepError(MmdeployError):
    """A step of the build failed."""

    exit_code = EXIT_STEP_FAILED

    def __init__(self, message: str, *, hint: str | None = None, step: str = "", log: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.log = log


class ModelError(StepError):
    """The factory, its weights or a submodule is not what the recipe says."""


class DataError(StepError):
    """Samples from the recipe's data callables cannot be used."""


class MetricError(StepError):
    """A metric cannot be loaded, refuses its arguments, or gives something that is no score."""


class PruneError(StepError):
    """A component cannot be pruned as asked."""


class ExportError(StepError):
    """torch.onnx could not export a component, or the exported graph answers differently."""


class QuantizeError(StepError):
    """Calibration or quantization failed."""


class TrainingError(StepError):
    """Training cannot start, or its loss is no longer finite."""


class BudgetError(StepError):
    """A search found nothing that keeps its budget: a "no" like that of a gate, with the same exit code.

    Attributes:
        best: JSON-able figures of the best that was found.
    """

    exit_code = EXIT_GATE_FAILED

    def __init__(self, message: str, *, hint: str | None = None, best: Mapping[str, object] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.best = dict(best or {})


class EngineError(StepError):
    """An engine could not be built or loaded."""


class ServerError(StepError):
    """Triton refused the repository, died, or stopped answering."""


class StoreError(StepError):
    """The artifact store cannot be read or written."""


class PromotionError(MmdeployError):
    """A release was not good enough to take over on a server: a "no" like that of a gate; what served still serves."""

    exit_code = EXIT_GATE_FAILED


class InconclusiveError(MmdeployError):
    """Too little was seen to decide; what served still serves."""

    exit_code = EXIT_INCONCLUSIVE


class InferenceError(MmdeployError):
    """A served model answered a request with an error."""


class EnvironmentUnfitError(MmdeployError):
    """This environment cannot do it: a distribution, a binary, a port or hardware is missing."""

    exit_code = EXIT_ENVIRONMENT


def nearest(word: str, accepted: Iterable[str]) -> str | None:
    """Return the accepted word most like ``word``, or None when none is close."""
    matches = difflib.get_close_matches(word, list(accepted), n=1, cutoff=0.6)
    return matches[0] if matches else None


def kind_of(value: object) -> str:
    """Return the type of a value with its article, such as ``a dict`` or ``an int``; None is ``None``."""
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return ``did you mean 'x'? accepted: a, b, c`` with the first part only where a match is close."""
    options = sorted(accepted)
    match = nearest(word, options)
    guess = f"did you mean {match!r}? " if match else ""
    return f"{guess}accepted: {', '.join(options) or 'nothing'}"

"""Options of the two ways to choose an engine by measuring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mmdeploy import engines
from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.errors import PluginError, did_you_mean
from mmdeploy.core.target import Target
from mmdeploy.plugins.registry import is_reference


def _known_engine(name: str) -> str:
    try:
        engines.METHODS.find(name)
    except PluginError as error:
        known = is_reference(name) or name in engines.METHODS  # and it cannot be loaded
        message = f"no engine is called {name!r}: {did_you_mean(name, engines.METHODS)}"
        raise ValueError(error.message if known else message) from error
    return name


#: Requests that engines are timed with, at most.
REQUESTS = 32
EngineName = Annotated[str, AfterValidator(_known_engine)]


class Measuring(MethodOptions):
    """How candidates are measured.

    Attributes:
        batch_size: Samples a request.
        max_seconds: When to stop timing; what has not been told apart by then is a tie, and the simpler one is taken.
        confidence: Of all comparisons of a component together.
        min_rounds: Rounds, in which each candidate is timed once, before anything is decided. Only what is far behind
            in each of the first four leaves before.
    """

    batch_size: int = Field(default=1, ge=1)
    max_seconds: float = Field(default=30.0, gt=0.0, le=3600.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    min_rounds: int = Field(default=12, ge=4)


class AutoEngine(Measuring):
    """Measure every engine, precision and encoding that suits the target, and take the fastest that is accurate.

    Attributes:
        max_drop: Largest loss of the task's metric on the validation split, at the ensemble's output, against the
            FP32 original. Null takes that of the accuracy gate whose metric it is, or 0.01.
        engines: Engines to try; null is all that the target has and this machine can run, but for those that take
            minutes to build (aot_inductor).
        threads: The most threads that a candidate may have. 1 suits ensembles: components share the cores but are
            measured alone, where more threads look faster than they are beside the others.
    """

    method: Literal["auto"] = "auto"
    max_drop: float | None = Field(default=None, ge=0.0)
    engines: Annotated[tuple[EngineName, ...], Field(min_length=1)] | None = None
    threads: int = Field(default=1, ge=1, le=1024)

    def in_order(self) -> tuple[str, ...]:
        """Return the engines to try: the built-in ones in the order of their simplicity, then the others as given."""
        if self.engines is None:
            return tuple(name for name in engines.METHODS if name not in engines.SLOW_TO_BUILD)
        built_in = [name for name in engines.METHODS.built_in if name in self.engines]
        return (*built_in, *(name for name in self.engines if name not in built_in))


class MustPay(Measuring):
    """Measure a compressed component against its uncompressed self: compression that does not pay is not shipped.

    Attributes:
        max_drop: As of `AutoEngine`; None leaves accuracy to the gates.
    """

    method: Literal["must_pay"] = "must_pay"
    max_drop: float | None = Field(default=None, ge=0.0)
    max_seconds: float = Field(default=15.0, gt=0.0, le=3600.0)


def default_engine(target: Target) -> MethodOptions:
    """Return what a component gets whose recipe names no engine."""
    if target is Target.TENSORRT:
        return engines.METHODS["tensorrt"].Options()
    if target is Target.TENSORRT_RTX:
        return engines.METHODS["tensorrt_rtx"].Options()
    from mmdeploy.engines import onnxruntime

    return onnxruntime.Options(provider="cuda") if target is Target.CUDA else onnxruntime.Options()

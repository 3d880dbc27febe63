"""The ``serving`` section of a recipe: how Triton runs a component. A missing key means "not done".

Nothing here changes what a component answers; it changes how requests wait, are grouped and are spread.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from mmdeploy.core.contracts import MethodOptions

Positive = Annotated[int, Field(ge=1)]


class DynamicBatching(MethodOptions):
    """Group waiting requests into one batch: more throughput, and up to ``max_queue_delay_us`` latency."""

    preferred_batch_size: tuple[Positive, ...] = Field(
        default=(), description="Batch sizes that are sent at once when reached; none: only the largest."
    )
    max_queue_delay_us: int = Field(
        default=0, ge=0, description="Microseconds that a request may wait for others to join its batch."
    )
    max_queue_size: int = Field(
        default=0,
        ge=0,
        description="0, no limit, and nothing else: an overflowing step of an ensemble crashes Triton before 26.02.",
    )
    timeout_us: int = Field(
        default=0,
        ge=0,
        description="Microseconds of waiting after which `timeout_action` applies; 0: never.",
    )
    timeout_action: Literal["reject", "delay"] = Field(
        default="reject", description="What a timeout does: refuse the request, or serve it after all others."
    )

    @field_validator("max_queue_size")
    @classmethod
    def _queue_is_open(cls, size: int) -> int:
        if size:
            raise ValueError(
                f"a limit of {size} cannot be kept: a component is a step of an ensemble, and when the queue of a step "
                "overflows, Triton before 26.02 crashes or leaves requests without an answer; remove it, or use "
                "timeout_us, which refuses what waited too long"
            )
        return size


class InstanceGroup(MethodOptions):
    """Copies of the model that run side by side.

    Without this section Triton decides: one per GPU, or on a CPU one, and two for the onnxruntime backend.
    """

    count: Positive = Field(default=1, description="Instances, on each GPU where there are several.")
    kind: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: where the engine runs.")
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="GPU ids; none: all.")

    @field_validator("gpus")
    @classmethod
    def _gpus_fit_kind(cls, gpus: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if gpus and info.data.get("kind") == "cpu":
            raise ValueError("gpus are listed, but kind is cpu: remove gpus, or say kind: gpu")
        if len(set(gpus)) != len(gpus):
            raise ValueError("a GPU is listed twice; for two instances on it say count: 2")
        return gpus


class Warmup(MethodOptions):
    """Requests that Triton makes itself before a model counts as ready."""

    batch_sizes: tuple[Positive, ...] = Field(default=(), description="Batch sizes to run; none: 1 and max_batch_size.")
    data: Literal["sample", "zero", "random"] = Field(
        default="sample",
        description="sample is the first of the recipe's calibration data, else of its evaluation data, as the "
        "component receives it; made-up values within the declared range where the recipe names neither. random is "
        "random *bytes*: floats may be NaN, ids may be outside any vocabulary.",
    )
    count: Positive = Field(default=1, description="Times that each batch is run.")
    variable_size: Positive | None = Field(
        default=None,
        description="Size taken for every dimension that varies: a sample is cut or padded to it. None: the sample's "
        "own, and 1 where there is none.",
    )


#: What to do about warm-up data that `unfit_warmup` has something against.
SAMPLE_HINT = "say data: sample: a warm-up that a model refuses can end Triton"


def unfit_warmup(section: bool | Warmup, dtype: str | None, span: tuple[float, float] | None) -> str | None:
    """Say what is wrong with warming up an input of a type and a range by made-up data; None where nothing is.

    Args:
        section: The recipe's.
        dtype: Triton's name of the type; None where it is not known.
        span: Lowest and highest value that a request may hold; None where it was not declared.
    """
    data = section.data if isinstance(section, Warmup) else "sample"
    if data == "zero" and span is not None and not span[0] <= 0 <= span[1]:
        return f"zeros are outside the declared range [{span[0]:g}, {span[1]:g}]"
    if data == "random" and span is not None:
        return f"random bytes do not keep to the declared range [{span[0]:g}, {span[1]:g}]"
    if data == "random" and dtype is not None and dtype.startswith("FP"):
        return f"random bytes are no {dtype} values: some are NaN"
    return None


class LatestVersions(MethodOptions):
    """Serve the newest versions."""

    latest: Positive = Field(description="Number of versions.")


class SpecificVersions(MethodOptions):
    """Serve exactly these versions."""

    specific: tuple[Positive, ...] = Field(min_length=1, description="Version numbers.")


VersionPolicy = Literal["all"] | LatestVersions | SpecificVersions


class Serving(MethodOptions):
    """How Triton runs a component."""

    max_batch_size: int = Field(
        default=8, ge=0, description="Largest batch in one request; 0: Triton never groups requests."
    )
    dynamic_batching: DynamicBatching | None = Field(default=None, description="Group waiting requests.")
    instance_group: InstanceGroup | None = Field(default=None, description="Copies that run side by side.")
    warmup: bool | Warmup = Field(default=False, description="Run requests before it counts as ready.")
    response_cache: bool = Field(
        default=False,
        description="Answer an input seen before (byte for byte) from Triton's response cache.",
    )
    guard: Literal["backend", "graph"] = Field(
        default="backend",
        description="Who refuses NaN, infinity and values outside the declared range: mmdeploy's backends only, or "
        "graph: checks in the ONNX graph as well, which hold in any server (onnxruntime on a CPU).",
    )
    version_policy: VersionPolicy | None = Field(
        default=None, description="all, {latest: n} or {specific: [..]}; none: the newest."
    )

    @field_validator("dynamic_batching")
    @classmethod
    def _batches_fit(cls, section: DynamicBatching | None, info: ValidationInfo) -> DynamicBatching | None:
        largest = info.data.get("max_batch_size")
        if section is None or largest is None:
            return section
        if largest == 0:
            raise ValueError("max_batch_size is 0, nothing can be grouped: set it, or remove dynamic_batching")
        if beyond := [size for size in section.preferred_batch_size if size > largest]:
            raise ValueError(f"preferred_batch_size {beyond[0]} is above max_batch_size {largest}")
        return section

    @field_validator("warmup")
    @classmethod
    def _warmup_fits(cls, section: bool | Warmup, info: ValidationInfo) -> bool | Warmup:
        largest = info.data.get("max_batch_size")
        if isinstance(section, Warmup) and largest is not None:
            limit = max(1, largest)
            if beyond := [size for size in section.batch_sizes if size > limit]:
                raise ValueError(f"batch size {beyond[0]} is above max_batch_size {largest}")
        return section


class ResponseCache(MethodOptions):
    """The response cache that the models of the recipe share, and whether the ensemble is in it as a whole."""

    size_mib: int = Field(
        default=64,
        ge=1,
        le=2**20,
        description="Size in MiB of the server's memory. `mmdeploy serve` takes it; another server is told with "
        "--cache-config, as beside the release.",
    )
    ensemble: bool = Field(
        default=False,
        description="Answer a request seen before (byte for byte) as a whole. Components are cached by their "
        "serving.response_cache.",
    )

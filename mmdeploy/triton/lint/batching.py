"""Rules on batching, instances, the response cache and warm-up (core: ValidateModelConfig and after it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories
from mmdeploy.triton.response_cache import confusable


def max_batch_size(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a negative max_batch_size."""
    size = model.parsed.max_batch_size
    if size < 0:
        yield Hit(f"max_batch_size is {size}", "0 is no batching, else 1 or more", "max_batch_size")


def preferred_batch_size(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find preferred batch sizes outside of 1 to max_batch_size."""
    config = model.parsed
    sections: dict[str, Any] = {"dynamic_batching": config.dynamic_batching}
    sections["sequence_batching.oldest"] = config.sequence_batching.oldest
    for at, section in sections.items():
        for size in section.preferred_batch_size:
            if not 0 < size <= config.max_batch_size:
                yield Hit(
                    f"preferred_batch_size {size} is not within 1 and max_batch_size {config.max_batch_size}",
                    "remove it, or raise max_batch_size",
                    f"{at}.preferred_batch_size",
                )


def dynamic_batching_off(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a dynamic batcher that can never batch."""
    if model.parsed.HasField("dynamic_batching") and not model.parsed.max_batch_size:
        yield Hit(
            "dynamic_batching has no effect: max_batch_size is 0",
            "set max_batch_size, or remove dynamic_batching",
            "dynamic_batching",
        )


def priority(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find priorities outside of the declared levels."""
    batching = model.parsed.dynamic_batching
    levels, at = batching.priority_levels, "dynamic_batching"
    if not levels:
        return
    if not 0 < batching.default_priority_level <= levels:
        yield Hit(
            f"default_priority_level is {batching.default_priority_level} with {levels} priority levels",
            f"set it within 1 and {levels}",
            f"{at}.default_priority_level",
        )
    for level in batching.priority_queue_policy:
        if not 0 < level <= levels:
            yield Hit(
                f"a queue policy is for priority {level}, of {levels} levels",
                f"levels are 1 to {levels}",
                f"{at}.priority_queue_policy",
            )


def preserve_ordering(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find queue policies that cannot keep the order that preserve_ordering promises."""
    batching = model.parsed.dynamic_batching
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        yield Hit(
            "preserve_ordering and several priority levels exclude each other",
            "remove one of them",
            "dynamic_batching.preserve_ordering",
        )
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    for policy in policies:
        if policy.default_timeout_microseconds and policy.timeout_action == policy.TimeoutAction.DELAY:
            yield Hit(
                "preserve_ordering and timeout_action: DELAY exclude each other",
                "use timeout_action: REJECT, or remove preserve_ordering",
                "dynamic_batching.preserve_ordering",
            )


def response_cache(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a response cache on a model whose responses cannot be cached."""
    config = model.parsed
    if not config.response_cache.enable:
        return
    for what, there in (
        ("the decoupled transaction policy", config.model_transaction_policy.decoupled),
        ("sequence_batching", config.HasField("sequence_batching")),
    ):
        if there:
            yield Hit(f"response_cache and {what} exclude each other", "remove response_cache", "response_cache")


def cache_mixed(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find a response cache that answers one request for another: its key has neither shapes nor wanted outputs."""
    config = model.parsed
    if not config.response_cache.enable:
        return
    shapes = {tensor.name: tuple(tensor.dims) for tensor in config.input}
    if name := confusable(shapes, batches=config.max_batch_size > 1):
        yield Hit(
            f"requests of several shapes can have the bytes of {name!r}, and the cache takes them for one",
            "remove response_cache, set max_batch_size: 1, or leave one size to vary beside an input of a fixed shape",
            "response_cache",
        )
    if model.is_ensemble and len(config.output) > 1:
        yield Hit(
            f"the cache keeps an answer as it was asked for: who asks for {config.output[0].name!r} only leaves that "
            "to everybody",
            "remove response_cache, or give the ensemble one output",
            "response_cache",
        )


def instance_group(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find instance groups that list GPUs or profiles where there can be none."""
    if model.is_ensemble:
        return
    for index, group in enumerate(model.parsed.instance_group):
        kind, at = group.Kind.Name(group.kind), f"instance_group[{index}]"
        if group.gpus and kind in ("KIND_CPU", "KIND_MODEL"):
            yield Hit(f"an instance group of {kind} lists gpus", "remove gpus, or say KIND_GPU", f"{at}.gpus")
        if group.profile and model.backend != "tensorrt":
            yield Hit("profiles are for TensorRT only", "remove profile", f"{at}.profile")
        for profile in group.profile:
            if model.backend == "tensorrt" and not profile.isdecimal():
                yield Hit(f"profile {profile!r} is no number", 'name it by its index: "0"', f"{at}.profile")


def instance_count(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find negative instance counts, which Triton silently replaces by its default."""
    for index, group in enumerate(model.parsed.instance_group):
        if group.count < 0:
            yield Hit(
                f"count is {group.count}, so Triton takes its default",
                "set 1 or more",
                f"instance_group[{index}].count",
            )


def instance_kind(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find models that load only where there is a GPU."""
    for index, group in enumerate(model.parsed.instance_group):
        kind = group.Kind.Name(group.kind)
        if kind == "KIND_GPU" or (kind == "KIND_AUTO" and group.gpus):
            listed = "" if kind == "KIND_GPU" else f", gpus {list(group.gpus)},"
            yield Hit(
                f"{kind}{listed} is refused by a server without a GPU",
                "KIND_AUTO without gpus (or no kind) takes a GPU where there is one and a CPU elsewhere",
                f"instance_group[{index}].kind",
            )

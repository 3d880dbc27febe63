"""What a stream can and cannot be: found when the recipe is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import did_you_mean
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.modalities import branches
from mmdeploy.recipe.stream import Stream

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component, Recipe
    from mmdeploy.recipe.yaml_tree import Keys

#: The engine whose graphs take and give states, in Triton's own backend and in mmdeploy's.
ENGINE = "onnxruntime"
_OVER, _CHUNK = ("stream", "over"), ("stream", "chunk")


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what no stream can be, and what cannot be beside one."""
    stream = recipe.stream
    if stream is None:
        return
    yield from _over_findings(recipe, stream)
    for index, name in enumerate(stream.keep):
        place: Keys = ("stream", "keep", index)
        if name not in recipe.components:
            message = f"no component is called {name!r}; {did_you_mean(name, recipe.components)}"
            yield Finding(place, message, involves=(("components", name),), needs_all=True)
        elif name in stream.keep[:index]:
            yield Finding(place, f"{name!r} is listed twice: take one out")
        else:
            yield from _kept_findings(recipe, name, recipe.components[name])
    yield from _beside(recipe)


def _over_findings(recipe: Recipe, stream: Stream) -> Iterator[Finding]:
    size = recipe.sizes.get(stream.over)
    if size is None:
        message = (
            f"no size is called {stream.over!r}; {did_you_mean(stream.over, recipe.sizes)}: declare it under sizes"
        )
        yield Finding(_OVER, message, involves=(("sizes", stream.over),), needs_all=True)
        return
    if not any(stream.over in spec.shape for spec in recipe.inputs.values()):
        message = (
            f"no input has the size {stream.over!r} in its shape, so there is nothing to send in chunks; a file, such "
            "as a video, is decoded as a whole: let clients send its frames"
        )
        yield Finding(_OVER, message, involves=(("inputs",),), needs_all=True)
    for key in ("bucket", "pad_to"):
        if getattr(size, key) is not None:
            place: Keys = ("sizes", stream.over, key)
            yield Finding(place, "padding in the middle of a stream would be remembered: take it out", (_OVER,))
    low = size.min or size.multiple_of
    most = (size.max - low) // size.multiple_of * size.multiple_of  # so that the longest sample is cut, and judged
    if stream.chunk % size.multiple_of or not low <= stream.chunk <= most:
        steps = f" in steps of {size.multiple_of}" if size.multiple_of > 1 else ""
        accepted = f"accepted: {low} to {most}{steps}" if most >= low else f"lower sizes.{stream.over}.min"
        message = f"{stream.chunk}, and a chunk is a {stream.over!r} that the longest sample has two of; {accepted}"
        yield Finding(_CHUNK, message, involves=(("sizes", stream.over),))


def _kept_findings(recipe: Recipe, name: str, part: Component) -> Iterator[Finding]:
    """Find what a component whose state is kept cannot have."""
    place: Keys = ("components", name)
    auto = recipe.automatic_engine(name)
    if auto is not None and {*(auto.engines or ("every engine of the target",))} != {ENGINE}:
        message = f"its state is kept, which {ENGINE} does: name it, or say engines: [{ENGINE}]"
        yield Finding((*place, "engine"), message, (("stream", "keep"),))
    elif auto is None and method_of(recipe.engine_options(name)) != ENGINE:
        found = method_of(recipe.engine_options(name))
        message = f"{found} keeps no state between requests, {ENGINE} does: say engine: {{method: {ENGINE}}}"
        yield Finding((*place, "engine"), message, (("stream", "keep"),))
    for key, why in (
        ("dynamic_batching", "Triton batches sequences by itself where a state is kept: take it out"),
        ("response_cache", "an answer depends on what was sent before, and not on the request alone: take it out"),
        ("warmup", "a warm-up belongs to no sequence: take it out"),
    ):
        if getattr(part.serving, key):
            yield Finding((*place, "serving", key), why, (("stream", "keep"),))
    if part.serving.guard == "graph":
        message = "a graph whose state is kept is written anew, without checks: take guard out, or put them upstream"
        yield Finding((*place, "serving", "guard"), message, (("stream", "keep"),))
    if part.serving.max_batch_size == 0:
        message = "Triton gives a state to each row of a batch: say 1 or more"
        yield Finding((*place, "serving", "max_batch_size"), message, (("stream", "keep"),))
    for sent, branch in branches(recipe).items():
        if name in branch.components:
            message = (
                f"{name!r} reads {sent!r} alone, which may be missing: a step asks for it outside of the sequence; "
                "make the input required, or keep the state behind the fusion"
            )
            yield Finding(("inputs", sent, "optional"), message, (("stream", "keep"),))


def _beside(recipe: Recipe) -> Iterator[Finding]:
    """Find sections that cannot carry a sequence."""
    if recipe.layout != "ensemble":
        message = "one composed model has no component whose state could be kept: say layout: ensemble"
        yield Finding(("layout",), message, (("stream",),))
    if recipe.cascade is not None:
        message = "a row that leaves early would not be remembered: take the cascade out, or the stream"
        yield Finding(("cascade",), message, (("stream",),))
    if recipe.response_cache is not None and recipe.response_cache.ensemble:
        message = "an answer depends on what was sent before, and not on the request alone: say false"
        yield Finding(("response_cache", "ensemble"), message, (("stream",),))

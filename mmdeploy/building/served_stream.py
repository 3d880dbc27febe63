"""How a stream is served: kept components take and give their states, and clients find how samples are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.planning.chains import original_graph
from mmdeploy.triton.kept_state import KeptState
from mmdeploy.triton.recurrent_state import states_of
from mmdeploy.triton.sequences import Cut

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.recipe.stream import Stream
    from mmdeploy.triton.config import ServedComponent, ServedEnsemble


def telling_exports(recipe: Recipe) -> frozenset[str]:
    """Return the ids of the steps whose graphs tell whether there is a state to keep."""
    return frozenset(original_graph(recipe, name) for name in (recipe.stream.keep if recipe.stream else ()))


def require_states(recipe: Recipe, component: str, artifact: Artifact) -> None:
    """Do nothing where a graph has the states that are to be kept: seen at its export, before anything is trained on.

    Raises:
        EngineError: If the graph of a kept component has no state that could be kept.
    """
    if recipe.stream is not None and component in recipe.stream.keep and artifact.format == "onnx":
        states_of(artifact.path, component)


def other_chunks(recipe: Recipe) -> tuple[int, ...]:
    """Return lengths of chunks to judge with besides the recipe's: the shortest, and one whose last is a shorter rest.

    A client may send any. What looks across a chunk of one length, such as a convolution whose stride it is, may be
    right in these alone.
    """
    stream = recipe.stream
    if stream is None:
        return ()
    size = recipe.sizes[stream.over]
    step, longest = size.multiple_of, size.max
    least = size.min or step
    found = {least, *[length for length in range(stream.chunk + step, longest, step) if longest % length][:1]}
    return tuple(sorted(found - {stream.chunk}))


def with_stream(recipe: Recipe, ensemble: ServedEnsemble) -> ServedEnsemble:
    """Return an ensemble that takes samples in chunks; others as they are.

    Args:
        recipe: The recipe.
        ensemble: Of all components, each a step of it.

    Raises:
        EngineError: If the graph of a kept component has no state that could be kept.
    """
    stream = recipe.stream
    if stream is None:
        return ensemble
    size = recipe.sizes[stream.over]
    least = size.min or size.multiple_of
    kept = {f"{recipe.name}.{name}" for name in stream.keep}
    components = tuple(_keeping(one, stream, least) if one.name in kept else one for one in ensemble.components)
    cut = Cut.of(stream.over, stream.chunk, least, ensemble.inputs, ensemble.outputs)
    return replace(ensemble, components=components, cut=cut)


def _keeping(part: ServedComponent, stream: Stream, least: int) -> ServedComponent:
    states = states_of(part.artifact.path, part.name)
    kept = KeptState(states, round(stream.max_idle_s * 1e6), stream.max_sequences)
    cut = Cut.of(stream.over, stream.chunk, least, part.artifact.inputs, part.artifact.outputs)
    return replace(part, kept=kept, cut=cut)

"""The components as gates see them: their wiring, what was done to what ships, and what INT8 took from each.

Noise that is far above that of the other components is told: no single limit fits every network, but one of several
that is so much worse is the first suspect. Whether it matters is for the gates to say, at the ensemble's output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.choice.record import engine_choice
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import WiredComponent, method_of
from mmdeploy.core.facts import find
from mmdeploy.gates.advising import far_below
from mmdeploy.quantize.fidelity import Likeness
from mmdeploy.quantize.giving_back import WorstNodes
from mmdeploy.quantize.ranges import CalibratedOn
from mmdeploy.recipe.layout import SINGLE
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.worker.feeds import wires
from mmdeploy.worker.shipped import shipped_engine

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.triton.config import ServedEnsemble

#: Gates that judge answers.
_OF_ANSWERS = ("accuracy", "parity")


def wired(recipe: Recipe, ensemble: ServedEnsemble, artifacts: Mapping[str, Artifact]) -> tuple[WiredComponent, ...]:
    """Return the components of an ensemble, each after what feeds it.

    Args:
        recipe: The recipe.
        ensemble: What is served for the candidate.
        artifacts: What was made, by step id.
    """
    found = []
    single = any(part.name == f"{recipe.name}.{SINGLE}" for part in ensemble.components)
    for name in topological_order(recipe.components):
        quantized = shipped_int8(name, artifacts)
        worst = find(WorstNodes, quantized.metadata) if quantized else None
        ranged = find(CalibratedOn, quantized.metadata) if quantized else None
        found.append(
            WiredComponent(
                name,
                *wires(recipe, name),
                passes_of(recipe, name, artifacts[f"{name}/engine"]),
                sqnr_db=int8_sqnr_db(quantized),
                worst_nodes=worst.worst_nodes if worst else {},
                calibrated_on=ranged.samples if ranged else None,
                alone=not single,
            )
        )
    return tuple(found)


def passes_of(recipe: Recipe, name: str, artifact: Artifact) -> tuple[str, ...]:
    """Say what makes a component, as it ships, differ from the original: its passes, and a precision below FP32."""
    component, choice = recipe.components[name], engine_choice(artifact)
    sections: tuple[str, ...] = ("prune", "recover", "quantize")
    if choice is not None and not choice.winner.compressed:
        sections = ()
    elif choice is not None and choice.winner.graph == "float":
        sections = ("prune", "recover")
    given = [(section, getattr(component, section)) for section in sections]
    passes = [f"{section} {method_of(options)}" for section, options in given if options is not None]
    precision = getattr(shipped_engine(recipe, name, artifact), "precision", None)
    return (*passes, *([f"precision {precision}"] if precision not in (None, "fp32") else []))


def shipped_int8(name: str, artifacts: Mapping[str, Artifact]) -> Artifact | None:
    """Return a component's INT8 graph; None where it has none, or ships another."""
    choice = engine_choice(artifacts.get(f"{name}/engine"))
    return None if choice is not None and choice.winner.graph == "float" else artifacts.get(f"{name}/quantize")


def int8_sqnr_db(quantized: Artifact | None) -> float | None:
    """Return what INT8 leaves of a graph's worst output."""
    likeness = find(Likeness, quantized.metadata) if quantized else None
    worst = likeness.worst if likeness else None
    return worst[1] if worst else None


def noise_notes(components: Sequence[WiredComponent], gates: Collection[str]) -> Iterator[str]:
    """Tell of each component from which INT8 takes far more than from the others, and who judged that.

    Args:
        components: Of the candidate.
        gates: Methods of the recipe's gates.
    """
    judges = [method for method in _OF_ANSWERS if method in gates]
    judged = "no gate of the recipe judges answers"
    if judges:
        judged = f"the {' and '.join(judges)} {'gates judge' if judges[1:] else 'gate judges'} that"
    for name, told in far_below({one.name: one.sqnr_db for one in components}).items():
        yield f"{name}: {told}; {judged}."

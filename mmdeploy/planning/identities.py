"""What the keys of steps are made of: the parts of a step's identity, by labels that a person understands.

A part that is the same for two steps is written once here, so that they agree on what a change touches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy import gates
from mmdeploy.planning.chains import yardstick
from mmdeploy.planning.steps import Fingerprints, digest, options_json
from mmdeploy.plugins.loading import Plugin

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Pass
    from mmdeploy.planning.kinds import StepKind
    from mmdeploy.recipe.schema import Recipe


class Identities:
    """Gives parts of identities for the steps of one recipe."""

    def __init__(self, recipe: Recipe, fingerprints: Fingerprints) -> None:
        """Take the recipe and the fingerprints of what surrounds it."""
        self._recipe, self._fingerprints = recipe, fingerprints

    def made_by(self, kind: StepKind, module: Pass | None = None) -> dict[str, str]:
        """Name the code and the libraries of a kind of step; ``module`` is what does it, where there are several."""
        versions = {f"library {name}": self._fingerprints.versions.get(name, "") for name in kind.requires_of(module)}
        whose = "the plug-in's code" if isinstance(module, Plugin) else "mmdeploy's own code"
        return {whose: self._fingerprints.code[kind.code_of(module)], **versions}

    def model(self) -> dict[str, str]:
        """Name the PyTorch model and what clients send to it."""
        return {
            "factory": self._recipe.model.factory,
            "model source": self._fingerprints.model_source,
            "weights": self._fingerprints.weights,
            **self.inputs(),
        }

    def data(self, key: str) -> dict[str, str]:
        """Name one of the recipe's callables under ``data`` and what it reads."""
        named = str(getattr(self._recipe.data, key))
        return {f"{key} data": self._fingerprints.data.get(key, ""), f"{key} callable": named}

    def samples(self, key: str) -> dict[str, str]:
        """Name what a set of samples is made from."""
        needing = [gate for gate in self._recipe.gates if gates.METHODS.of(gate).NEEDS_LABELS]
        labels = {"labels": "needed" if needing else "not needed"} if key == "evaluation" else {}
        return self.data(key) | labels | self.inputs()

    def inputs(self) -> dict[str, str]:
        """Name what clients send."""
        return {"inputs": self._input_specs()}

    def judging(self, name: str) -> dict[str, str]:
        """Name what is judged in the ensemble: components with the same surroundings share no result."""
        code = self._fingerprints.metrics.get(name)
        scored = yardstick(self._recipe, name).metric.identity() | ({"metric code": code} if code else {})
        return scored | {"component": name}

    def timing(self, name: str) -> dict[str, str]:
        """Name what timings of a component depend on."""
        engine, exported = self._recipe.engine_options(name), self._recipe.components[name].export
        made = digest([options_json(engine), options_json(exported)])
        return {"machine": self._fingerprints.machine, "engine": made}

    def wiring(self, *names: str) -> str:
        """Return the digest of how components are wired."""
        parts = {name: self._recipe.components[name] for name in names}
        return digest(
            {
                name: part.model_dump(mode="json", include={"module", "inputs", "outputs"})
                for name, part in parts.items()
            }
        )

    def _input_specs(self) -> str:
        return digest({name: spec.model_dump(mode="json") for name, spec in self._recipe.inputs.items()})

"""What the keys of steps are made of: the parts of a step's identity, by labels that a person understands.

A part that is the same for two steps is written once here, so that they agree on what a change touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mmdeploy import engines, export, gates
from mmdeploy.model.tensors import OTHERS
from mmdeploy.planning.chains import yardstick
from mmdeploy.planning.recipe_inputs import Labels, flat, students
from mmdeploy.planning.steps import Fingerprints, digest, options_json
from mmdeploy.plugins.loading import Plugin
from mmdeploy.recipe.cascade_stages import scored_in
from mmdeploy.recipe.modalities import optional_inputs, subsets

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Pass
    from mmdeploy.planning.kinds import StepKind
    from mmdeploy.recipe.schema import Recipe

#: What a spec says of an input that is missing: part of the keys of steps that it concerns.
_ABOUT_MISSING = {"optional", "missing"}


class Identities:
    """Gives parts of identities for the steps of one recipe."""

    def __init__(self, recipe: Recipe, fingerprints: Fingerprints) -> None:
        """Take the recipe and the fingerprints of what surrounds it."""
        self._recipe, self._fingerprints = recipe, fingerprints
        self.parts: dict[str, Mapping[str, str]] = {}

    def made_by(
        self,
        kind: StepKind,
        module: Pass | None = None,
        needs: Iterable[str] = (),
        *,
        times: str = "",
        also: Iterable[Pass] = (),
    ) -> dict[str, str]:
        """Name the code and the libraries that a step runs.

        Args:
            kind: Its kind.
            module: What does it, where there are several.
            needs: Data sets that it reads.
            times: The component whose graphs it times, if it does.
            also: What it runs besides: the engines that it measures.
        """
        others = [*also, *(self._timed_by(times) if times else ())]
        own = [one.__name__ for one in others if not isinstance(one, Plugin)]
        starts = (*kind.starts_in(module, needs, measures=bool(times)), *own)
        plugged = [one.__name__ for one in (*others, *([module] if module else ())) if isinstance(one, Plugin)]
        code = self._fingerprints.code
        labels: Labels = {"mmdeploy's own code": {name: found for one in starts for name, found in code[one].items()}}
        labels |= {f"code of {one}": code[one] for one in plugged}
        names = ("mmdeploy", *kind.requires_of(module))
        versions = {f"library {name}": self._fingerprints.versions.get(name, "") for name in names}
        return self._flat(labels) | versions

    def _timed_by(self, name: str) -> tuple[Pass, ...]:
        engine, exported = self._recipe.engine_options(name), self._recipe.components[name].export
        return engines.METHODS.of(engine), export.METHODS.of(exported)

    def model(self, *names: str) -> dict[str, str]:
        """Name the PyTorch model, the weights of some components, and what clients send."""
        inputs, wanted = self._fingerprints.inputs, (*names, OTHERS)
        labels: Labels = {label: inputs.weights[name] for name, label in inputs.weight_labels.items() if name in wanted}
        prefix = self._recipe.model.prefix
        placed = {"prefix of the weights": digest(prefix)} if prefix else {}
        return self._flat(inputs.model | labels) | {"factory": self._recipe.model.factory, **placed, **self.inputs()}

    def students(self, *names: str) -> dict[str, str]:
        """Name the code that builds other modules in the place of some components."""
        found = dict[str, str]()
        for reference in (one for name, one in students(self._recipe).items() if name in names):
            found |= self._flat(self._fingerprints.inputs.data.get(reference, {}))
        return found

    def data(self, key: str) -> dict[str, str]:
        """Name one of the recipe's callables under ``data`` and what it reads."""
        named = str(getattr(self._recipe.data, key))
        prepared = self.media("preprocess") if key != "loss" else {}
        return self._flat(self._fingerprints.inputs.data.get(key, {})) | {f"{key} callable": named} | prepared

    def media(self, section: str) -> dict[str, str]:
        """Name the steps of ``preprocess`` or ``postprocess`` and what they are made of."""
        found = self._fingerprints.media.get(section)
        return self._flat({section: found}) if found else {}

    def samples(self, key: str) -> dict[str, str]:
        """Name what a set of samples is made from."""
        needing = [gate for gate in self._recipe.gates if gates.METHODS.of(gate).NEEDS_LABELS]
        labels = {"labels": "needed" if needing else "not needed"} if key == "evaluation" else {}
        sent = {name: spec.model_dump(mode="json") for name, spec in self._recipe.inputs.items()}
        raw = {"what clients send": digest(sent)} if self._recipe.preprocess else {}
        return self.data(key) | labels | self.inputs() | raw

    def inputs(self) -> dict[str, str]:
        """Name what clients send."""
        sizes = {name: spec.model_dump(mode="json", exclude={"bucket"}) for name, spec in self._recipe.sizes.items()}
        return {"inputs": self._input_specs()} | ({"sizes": digest(sizes)} if sizes else {})

    def judging(self, name: str) -> dict[str, str]:
        """Name what is judged in the ensemble: components with the same surroundings share no result."""
        code = self._fingerprints.metrics.get(name)
        metric = yardstick(self._recipe, name).metric
        scored = metric.identity() | ({"metric code": code} if code else {})
        of_metric = self._flat(self._fingerprints.inputs.data.get(metric.metric, {}))
        return scored | of_metric | {"component": name} | self._answers_early(name)

    def cascade(self) -> dict[str, str]:
        """Name the cascade's rule; nothing where there is none."""
        found = self._recipe.cascade
        return {} if found is None else {"cascade": digest(found.model_dump(mode="json", include={"when", "answers"}))}

    def _answers_early(self, name: str) -> dict[str, str]:
        """Name what a component's tensors answer for where it only answers early: it is scored as that."""
        cascade = self._recipe.cascade
        only_early = cascade is not None and scored_in(self._recipe, name) is not self._recipe
        return {"answers early": digest(dict(cascade.answers))} if cascade is not None and only_early else {}

    def timing(self, name: str) -> dict[str, str]:
        """Name what timings of a component depend on."""
        engine, exported = self._recipe.engine_options(name), self._recipe.components[name].export
        made = digest([options_json(engine), options_json(exported)])
        return {"machine": self._fingerprints.machine, "engine": made}

    def missing(self) -> dict[str, str]:
        """Name what stands in for inputs that are missing; nothing where none may be."""
        optional = {name: one.model_dump(mode="json") for name, one in optional_inputs(self._recipe).items()}
        return {"inputs that may be missing": digest(optional)} if optional else {}

    def subsets(self) -> dict[str, str]:
        """Name the subsets of modalities that are judged; nothing where no input may be missing."""
        found = [subset.label for subset in subsets(self._recipe)]
        return {"subsets": digest(found)} if found else {}

    def wiring(self, *names: str) -> str:
        """Return the digest of how components are wired."""
        parts = {name: self._recipe.components[name] for name in names}
        return digest(
            {
                name: part.model_dump(mode="json", include={"module", "inputs", "outputs"})
                for name, part in parts.items()
            }
        )

    def _flat(self, labels: Labels) -> dict[str, str]:
        """Return labels with one digest for each content, which is noted."""
        texts, parts = flat(labels)
        self.parts |= parts
        return texts

    def _input_specs(self) -> str:
        specs = self._recipe.sources()
        return digest({name: spec.model_dump(mode="json", exclude=_ABOUT_MISSING) for name, spec in specs.items()})

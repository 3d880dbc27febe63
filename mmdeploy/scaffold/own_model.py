"""A first recipe of a model of one's own: from its factory and a data callable to the files that are written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.errors import DataError, ModelError, UsageError
from mmdeploy.data.samples import unchecked
from mmdeploy.model.adapter_files import Adapters
from mmdeploy.model.sources import resolve_callable, split_reference
from mmdeploy.model.torch_model import load_model
from mmdeploy.model.weight_files import Prefix
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.scaffold import files, parting, splitting
from mmdeploy.scaffold.choosing import Choice, choose
from mmdeploy.scaffold.forms import forms_of
from mmdeploy.scaffold.look import Looked, look
from mmdeploy.scaffold.lookable import refuse_model
from mmdeploy.scaffold.naming import identifier
from mmdeploy.scaffold.proposal import Told
from mmdeploy.scaffold.recipe_text import recipe_text
from mmdeploy.scaffold.seen import Seen, look_at

if TYPE_CHECKING:
    from torch import nn

    from mmdeploy.building.diagnosis import Finding


@dataclass(frozen=True)
class Sources:
    """What a recipe is made from; references as they were given, relative to the folder that the user stands in.

    Attributes:
        factory: The model's.
        data: Data callable.
        evaluation: Another one, of held-out samples; None where ``data`` is all there is.
        weights: A checkpoint; None for the factory's own.
        call: A function that calls the model; None where its forward does.
        output: The recipe's file; None for recipe.yaml beside the factory.
        prefix: Where in the model the tensors of the checkpoint belong.
        adapters: LoRA adapters that are merged into the model, relative to ``root``.
        allow_pickle: Whether weights and adapters may be pickles.
    """

    factory: str
    data: str
    evaluation: str | None = None
    weights: Path | None = None
    call: str | None = None
    output: Path | None = None
    prefix: Prefix = field(default_factory=dict)
    adapters: Adapters = field(default_factory=dict)
    allow_pickle: bool = False

    @property
    def root(self) -> Path:
        """The folder of the code: the factory's, which the recipe's paths are relative to."""
        place = self.factory.rpartition(":")[0]
        if place.endswith(".py"):
            return Path(place).absolute().parent
        return self.output.absolute().parent if self.output is not None else Path.cwd()

    @property
    def recipe(self) -> Path:
        """Where the recipe is written."""
        return self.output if self.output is not None else _from_here(self.root / "recipe.yaml")

    def inside(self, reference: str) -> str:
        """Return a reference as the recipe says it."""
        place, colon, name = reference.rpartition(":")
        return f"{_relative(Path(place), self.root)}{colon}{name}" if place.endswith(".py") else reference


@dataclass(frozen=True)
class Found:
    """A model that was looked at, and what goes into every recipe of it."""

    sources: Sources
    looked: Looked
    told: Told

    def choose(
        self,
        components: Sequence[str] = (),
        *,
        name: str | None = None,
        target: str | None = None,
        whole: bool | None = None,
    ) -> Choice:
        """Propose a recipe with what the user chose.

        Raises:
            ModelError: When a component is none, or the whole model cannot be one.
        """
        told = replace(self.told, name=name or self.told.name, target=target or self.told.target)
        choice = choose(self.looked, told, components, root=self.sources.root, whole=whole)
        proposal = choice.proposal
        if name is None and told.name in {part.name for part in proposal.wiring.parts}:
            proposal = replace(proposal, told=replace(proposal.told, name=f"{told.name}_model"))
        data, evaluation = self.sources.data, self.sources.evaluation
        sets = splitting.sample_sets(
            self.sources.inside(data), evaluation and self.sources.inside(evaluation), self.looked.seen,
            [name for name, one in proposal.optional.items() if one.lacking],
        )  # fmt: skip
        told = replace(
            proposal.told, calibration=sets.calibration, evaluation=sets.evaluation,
            calibration_samples=sets.calibration_samples, evaluation_samples=sets.evaluation_samples,
        )  # fmt: skip
        notes = (*sets.notes, *choice.notes)
        return replace(choice, proposal=replace(proposal, told=told), notes=notes, data_code=sets.code)


def find(sources: Sources) -> Found:
    """Load the model, take samples, let it answer.

    Raises:
        UsageError: When a reference is none.
        ModelError: When the model cannot be looked at.
        DataError: When the samples cannot.
    """
    model, seen, call = _loaded(sources)
    return Found(sources, look(model, seen, root=sources.root, call=call), _told(sources))


def examined(sources: Sources) -> tuple[Finding, ...]:
    """Load the model, take samples, and name the forms in it that will not deploy.

    Raises:
        UsageError: When a reference is none.
        ModelError: When the model cannot be looked at.
        DataError: When the samples cannot.
    """
    model, seen, call = _loaded(sources)
    return forms_of(model, seen, root=sources.root, call=call)


def with_samples_of_recipe(sources: Sources) -> Sources:
    """Take samples, weights and adapters from the recipe beside a model.

    Raises:
        UsageError: Where no recipe there is of this model.
    """
    place = sources.root / "recipe.yaml"
    recipe = load_recipe(place) if place.is_file() else None
    data = None if recipe is None else recipe.data.calibration or recipe.data.evaluation
    if recipe is None or data is None or recipe.model.factory != sources.inside(sources.factory):
        raise UsageError(
            f"{sources.factory} is to answer samples, and none are given",
            hint="mmdeploy doctor model.py:build --data data.py:samples",
        )
    of = recipe.model.weights
    inside = of if of is None or of.is_absolute() or sources.weights is not None else sources.root / of
    outside = str(sources.root / data) if data.partition(":")[0].endswith(".py") else data
    prefix = recipe.model.prefix if sources.weights is None else {}
    return replace(
        sources, data=outside, weights=sources.weights or inside, prefix=prefix, adapters=recipe.model.adapters,
        allow_pickle=recipe.model.allow_pickle,
    )  # fmt: skip


def _loaded(sources: Sources) -> tuple[nn.Module, Seen, Callable[..., object] | None]:
    """Return the model, what was seen of all samples, and what calls the model."""
    _check_references(sources)
    root = sources.root
    factory, data = sources.inside(sources.factory), sources.inside(sources.data)
    weights = None if sources.weights is None else _relative(sources.weights, root)
    model = load_model(
        factory, root=root, weights=Path(weights) if weights else None, prefix=sources.prefix,
        adapters=sources.adapters, allow_pickle=sources.allow_pickle,
    )  # fmt: skip
    refuse_model(model, factory)
    seen = look_at(unchecked(data, root=root), data)
    if sources.evaluation is not None:
        evaluation = sources.inside(sources.evaluation)
        seen = look_at(unchecked(evaluation, root=root), evaluation, seen)
    call = None
    if sources.call is not None:
        call = resolve_callable(sources.inside(sources.call), root, error=ModelError)
    return model, seen, call


def _told(sources: Sources) -> Told:
    root, recipe = sources.root, sources.recipe
    elsewhere = recipe.absolute().parent != root
    return Told(
        name=identifier(root.name),
        target="cpu",
        factory=sources.inside(sources.factory),
        calibration=sources.inside(sources.data),
        evaluation=sources.inside(sources.evaluation or sources.data),
        weights=None if sources.weights is None else _relative(sources.weights, root),
        folder=_relative(root, recipe.absolute().parent) if elsewhere else None,
        schema=files.SCHEMA,
    )


def texts_of(found: Found, choice: Choice) -> dict[Path, str]:
    """Return what is written: the recipe last, so that what it needs is there."""
    recipe, root = found.sources.recipe, found.sources.root
    code = {splitting.FILENAME: choice.data_code, parting.FILENAME: choice.code}
    texts = {_from_here(root / name): text for name, text in code.items() if text is not None}
    schema = recipe.parent / files.SCHEMA
    if not schema.exists():
        texts[schema] = files.schema_text()
    return texts | {recipe: recipe_text(choice.proposal, choice.notes)}


def _check_references(sources: Sources) -> None:
    for option, reference in (
        ("MODEL", sources.factory), ("--data", sources.data), ("--evaluation", sources.evaluation),
        ("--call", sources.call),
    ):  # fmt: skip
        if reference is None:
            continue
        error = ModelError if option in ("MODEL", "--call") else DataError
        try:
            split_reference(reference, error)
        except (ModelError, DataError) as cause:
            raise UsageError(f"{option}: {cause.message}", hint=cause.hint) from cause
    if re.search(r"\s", sources.factory):
        raise UsageError(f"MODEL: {sources.factory!r} has a space in it")


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path.absolute(), root)).as_posix()


def _from_here(path: Path) -> Path:
    """Return a path as short as it can be said from where the user stands."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

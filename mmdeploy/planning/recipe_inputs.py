"""What a recipe's model and data are made of: code, files that it reads, weights, packages, environment variables.

Nothing of the recipe is executed. What its callables read is known from when they ran last (`mmdeploy.model.reads`);
before that it is not, and a step that runs them must run. Without ``data.files`` the data of a recipe is what its
callables were seen to read; files that cannot be seen are named in ``model.files`` and ``data.files``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import ModelError, UsageError
from mmdeploy.core.store import Store
from mmdeploy.gates import accuracy
from mmdeploy.model.adapter_files import PEFT, files_of_adapter
from mmdeploy.model.distributions import gives, installed_as, required_by, version_of
from mmdeploy.model.imports import Code, code_behind, code_digest
from mmdeploy.model.places import name_of
from mmdeploy.model.reads import Reading, Readings, changes
from mmdeploy.model.tensors import OTHERS, of_modules, tensor_digests
from mmdeploy.model.watching import BLIND
from mmdeploy.model.weight_files import files_of, placed

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

T = TypeVar("T")

#: By a label that a person understands: a short text, or digests by name, such as those of files.
Labels: TypeAlias = "dict[str, str | Mapping[str, str]]"

#: The recipe's callables by the key that names them under ``data``.
DATA = ("calibration", "evaluation", "training", "validation", "loss")
#: What stands for what a callable reads as long as it has not run.
UNREAD = "not known before it has run"
#: How labels begin of what is learned by running the recipe's code.
_READ = "read by "
_LEARNED = (_READ, "package ", "files beside the recipe")
_INPUT = "input "
_WEIGHTS_OF = ", tensors of "
_OWN_DISTRIBUTION = "multimodal-deploy"
_NOT_READ = {".py", ".pyc", ".yaml", ".yml", ".md"}
_WEIGHTS = {".safetensors", ".pt", ".pth", ".ckpt"}


@dataclass(frozen=True)
class RecipeInputs:
    """What decides what the recipe's own code and files give.

    Attributes:
        model: What the factory is made of.
        data: The same of each of the recipe's data callables, by key, and of each metric of its own and each student,
            by reference. Without those that the recipe does not name.
        weights: Digests of the tensors of each component in the weights file; under `OTHERS` those of no component, or
            that of the whole file. Empty without such a file.
        unseen: What a callable reads that cannot be followed, by its reference.
        weights_file: The recipe's.
    """

    model: Labels
    data: Mapping[str, Labels] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unseen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights_file: str = ""

    @property
    def weight_labels(self) -> dict[str, str]:
        """Label of the weights of each component that has any, and of those of none."""
        named = {name: "no component" if name == OTHERS else name for name in self.weights if self.weights[name]}
        return {name: f"{self.weights_file}{_WEIGHTS_OF}{component}" for name, component in named.items()}


def take_inputs(recipe: Recipe, store: Store | None = None) -> RecipeInputs:
    """Digest what a recipe's model and data are made of.

    Args:
        recipe: The recipe.
        store: Where it is kept what the callables were seen to read; None knows nothing of that.

    Raises:
        UsageError: If a file cannot be read.
    """
    return _Inputs(recipe, store).taken()


def share_readings(recipe: Recipe, store: Store) -> None:
    """Send what the recipe's callables were seen to read to the place that machines share.

    Raises:
        StoreError: If it could not be sent.
    """
    readings = Readings(store, recipe.root.resolve())
    for reference, code in codes_of(recipe, store.facts).items():
        readings.share(reference, digest_of(source_of(code, store.facts)))


def codes_of(recipe: Recipe, facts: FileFacts) -> dict[str, Code]:
    """Return the code behind each of a recipe's callables, by its reference."""
    data = (getattr(recipe.data, key) for key in DATA)
    references = [recipe.model.factory, *data, *own_metrics(recipe), *students(recipe).values()]
    return {name: code_behind(name, recipe.root, facts) for name in references if name is not None}


def own_metrics(recipe: Recipe) -> list[str]:
    """Return the references of the metrics that are the recipe's own code."""
    outputs = tuple(recipe.outputs)
    specs = [gate.spec(outputs) for gate in recipe.gates if isinstance(gate, accuracy.Options)]
    return list(dict.fromkeys(spec.metric for spec in specs if spec.is_own))


def students(recipe: Recipe) -> dict[str, str]:
    """Return the references of what builds another module in a component's place, by component."""
    found = {name: getattr(one.recover, "student", None) for name, one in recipe.components.items()}
    return {name: reference for name, reference in found.items() if reference is not None}


def source_of(code: Code, facts: FileFacts) -> dict[str, str]:
    """Return the digest of each file of code, by its name.

    Raises:
        UsageError: If one cannot be read.
    """
    return {name: _readable(path, lambda path: code_digest(path, facts)) for path, name in code.files.items()}


def digest_of(content: Mapping[str, str]) -> str:
    """Return one digest of digests by name."""
    lines = "\n".join(f"{name}\0{digest}" for name, digest in sorted(content.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def digests_of(paths: Iterable[Path], root: Path, facts: FileFacts) -> dict[str, str]:
    """Return digests of files by names that are relative to the recipe's folder, so that a moved folder keeps them.

    Raises:
        UsageError: If one cannot be read.
    """
    return {name_of(str(path), root): _readable(path, facts.sha256) for path in paths}


def flat(labels: Labels) -> tuple[dict[str, str], dict[str, Mapping[str, str]]]:
    """Return labels with one digest for each content, and what each is of."""
    parts = {digest_of(value): value for value in labels.values() if not isinstance(value, str)}
    texts = {label: value if isinstance(value, str) else digest_of(value) for label, value in labels.items()}
    return texts, parts


def unseen_notes(inputs: RecipeInputs) -> list[str]:
    """Say, for people, what the recipe's callables were seen to read that cannot be followed."""
    return [
        f"{reference} depends on {what}: a change there is not noticed"
        for reference, unseen in sorted(inputs.unseen.items())
        for what in unseen
    ]


def reads_recipe(identity: Mapping[str, str]) -> bool:
    """Say whether a step runs code of the recipe."""
    return any(label.startswith(_READ) for label in identity)


def completed(identity: Mapping[str, str], inputs: RecipeInputs) -> dict[str, str]:
    """Return an identity with what is known now of what the recipe's callables in it read."""
    result = dict(identity)
    for labels in (inputs.model, *inputs.data.values()):
        if any(label in identity for label in labels if label.startswith(_READ)):
            result |= flat(labels)[0]
    if any(label in identity for label in inputs.model if label.startswith(_READ)):
        weights = flat({label: inputs.weights[name] for name, label in inputs.weight_labels.items()})[0]
        result |= {label: value for label, value in weights.items() if label in identity}
    return result


def changed_inputs(identity: Mapping[str, str], before: RecipeInputs, after: RecipeInputs) -> str:
    """Say what changed of what a step is made of, what its callables read left aside; empty if nothing did.

    Args:
        identity: The step's.
        before: When the step was planned.
        after: When it was done.
    """
    for old, new in zip((before.model, *before.data.values()), (after.model, *after.data.values()), strict=True):
        for label in [label for label in old if label in identity and not label.startswith(_LEARNED)]:
            if old[label] != new.get(label):
                told = [part for part in (old[label], new.get(label)) if isinstance(part, Mapping)]
                return changes(*told)[0] if len(told) == 2 else f"{label} changed"
    if _by_tensor(before) != _by_tensor(after) and any(label in identity for label in before.weight_labels.values()):
        return f"{before.weights_file} changed"
    return ""


def same_model(before: RecipeInputs, after: RecipeInputs) -> bool:
    """Say whether a model that was loaded at one time is what would be loaded at another.

    That more is known of what the factory reads is no difference.
    """
    if _by_tensor(before) != _by_tensor(after):
        return False
    return all(
        _agree(before.model[label], after.model[label], in_part=label.startswith(_READ))
        for label in before.model.keys() & after.model.keys()
    )


def _agree(old: str | Mapping[str, str], new: str | Mapping[str, str], *, in_part: bool) -> bool:
    if not in_part:
        return old == new
    if isinstance(old, str) or isinstance(new, str):  # nothing was known yet
        return True
    return all(old[name] == new[name] for name in old.keys() & new.keys())


def _by_tensor(inputs: RecipeInputs) -> dict[str, str]:
    return {name: digest for part in inputs.weights.values() for name, digest in part.items()}


def differs_in_reads_only(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Say whether two identities of a step, at the same state of the world, differ only in how much was seen of it."""
    changed = [label for label in {*before, *after} if before.get(label) != after.get(label)]
    return all(label.startswith((*_LEARNED, _INPUT)) or _WEIGHTS_OF in label for label in changed)


class _Inputs:
    """Takes the inputs of one recipe."""

    def __init__(self, recipe: Recipe, store: Store | None) -> None:
        self.recipe, self.root = recipe, recipe.root.resolve()
        self.facts = store.facts if store else FileFacts()
        self.readings = Readings(store, self.root) if store else None
        self.codes = codes_of(recipe, self.facts)
        self.unseen: dict[str, tuple[str, ...]] = {}

    def taken(self) -> RecipeInputs:
        model, data = self.recipe.model, self.recipe.data
        named: Labels = {"model.files": self._named(model.files)} if model.files is not None else {}
        of_model = self._reader(model.factory, self._beside) | named | self._adapters()
        named = {"data.files": self._named(data.files)} if data.files is not None else {}
        trained = [*([str(model.weights)] if model.weights else []), *(f"{one}/*" for one in model.adapters.values())]
        beside = partial(self._beside, _WEIGHTS, [*(model.files or ()), *trained])
        readers = {key: reference for key in DATA if (reference := getattr(data, key)) is not None}
        of_data = {key: self._reader(reference, beside) | named for key, reference in readers.items()}
        others = (*own_metrics(self.recipe), *students(self.recipe).values())
        of_data |= {reference: self._reader(reference, beside) for reference in others}
        return RecipeInputs(of_model, of_data, self._weights(), self.unseen, str(model.weights or ""))

    def _reader(self, reference: str, beside: Callable[[], Iterable[Path]]) -> Labels:
        """Return what a callable is made of; of files beside the recipe only where its reads could not be seen."""
        code = self.codes[reference]
        source = source_of(code, self.facts)
        reading = self.readings.now(reference, digest_of(source)) if self.readings else None
        labels: Labels = {f"code of {reference}": source, f"{_READ}{reference}": reading.files if reading else UNREAD}
        for name in sorted(code.libraries):
            labels[f"package {name}"] = self._installation(name)
        for name in code.variables:
            value = os.environ.get(name)
            labels[f"environment {name}"] = "not set" if value is None else hashlib.sha256(value.encode()).hexdigest()
        if reading is not None:
            labels |= {f"package {name}": version for name, version in reading.libraries.items()}
            self.unseen[reference] = reading.unseen
            if any(what.startswith(BLIND) for what in reading.unseen):
                labels["files beside the recipe"] = self._digests(beside())
        return labels

    def _installation(self, name: str) -> str:
        """Return what tells a package's installation; of what mmdeploy requires itself its version does."""
        known = gives(name, self.facts) in required_by(_OWN_DISTRIBUTION, self.facts)
        return version_of(name) if known else installed_as(name, self.facts)

    def _weights(self) -> dict[str, dict[str, str]]:
        weights = self.recipe.model.weights
        if weights is None:
            return {}
        tensors = self._tensors(weights)
        modules = {name: component.module for name, component in self.recipe.components.items()}
        return of_modules(tensors, modules, self._shared())

    def _adapters(self) -> Labels:
        """Return what is merged into the model: for the whole of it, since an adapter says itself where it belongs.

        Its files are told by their own names: where the folder lies decides nothing, and on a node it is elsewhere.
        """
        labels: Labels = {}
        for path, folder in self.recipe.model.adapters.items():
            files = _adapter_files(self.root / folder)
            labels[f"adapter of {path or 'the model'}"] = {one.name: _readable(one, self.facts.sha256) for one in files}
        order = {"order of the adapters": ", ".join(self.recipe.model.adapters)} if len(labels) > 1 else {}
        return labels | order | {f"package {PEFT}": version_of(PEFT)} if labels else {}

    def _tensors(self, weights: Path) -> dict[str, str]:
        """Return the digest of each tensor of a checkpoint, by its name in the model; of a file of none its own."""
        found: dict[str, str] = {}
        for file in _weight_files(self.root / weights):
            tensors = _readable(file, lambda path: tensor_digests(path, self.facts))
            if {*tensors} == {OTHERS}:
                shown = str(weights) if file == self.root / weights else f"{weights}/{file.name}"
                found[shown] = tensors[OTHERS]
            else:
                found |= placed(tensors, self.recipe.model.prefix)
        return found

    def _shared(self) -> tuple[tuple[str, str], ...]:
        reference = self.recipe.model.factory
        source = digest_of(source_of(self.codes[reference], self.facts))
        reading: Reading | None = self.readings.now(reference, source) if self.readings else None
        return reading.shared if reading else ()

    def _named(self, patterns: Iterable[str]) -> dict[str, str]:
        """Return digests by name; what an absolute glob finds elsewhere lies there wherever the recipe's folder is."""
        absolute = [pattern for pattern in patterns if PurePath(pattern).is_absolute()]
        elsewhere = [path for path in matching(absolute, self.root) if not path.resolve().is_relative_to(self.root)]
        found = self._digests(path for path in matching(patterns, self.root) if path not in elsewhere)
        return found | {str(path): _readable(path, self.facts.sha256) for path in elsewhere}

    def _digests(self, paths: Iterable[Path]) -> dict[str, str]:
        return digests_of(paths, self.root, self.facts)

    def _beside(self, kinds: Iterable[str] = (), patterns: Iterable[str] = ()) -> Iterator[Path]:
        """Give the files in the recipe's folder, without code, recipes, and kinds and patterns of files."""
        without, kinds = set(matching(patterns, self.root)), {*_NOT_READ, *kinds}
        for path in sorted(self.root.rglob("*")):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(self.root).parts)
            if path.suffix not in kinds and path not in without and not hidden and path.is_file():
                yield path


def matching(patterns: Iterable[str], root: Path) -> list[Path]:
    """Return the files that match globs beside a recipe, sorted."""
    # Path.glob refuses absolute patterns
    found = (name for pattern in patterns for name in glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
    return sorted({root / name for name in found if (root / name).is_file()})


def _weight_files(weights: Path) -> tuple[Path, ...]:
    try:
        return files_of(weights)
    except ModelError:
        return (weights,)  # digested as it is; whoever loads it says what is wrong


def _adapter_files(folder: Path) -> tuple[Path, ...]:
    try:
        return files_of_adapter(folder)
    except ModelError:
        return ()  # whoever loads it says what is wrong


def _readable(path: Path, take: Callable[[Path], T]) -> T:
    try:
        return take(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; whether it changed decides what must run again",
            hint="make it readable, or keep it where the recipe does not name it and its code does not read it",
        ) from error

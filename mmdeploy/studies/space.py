"""What a sweep varies: ``--set`` options with several values each, read and checked before anything runs.

``path=a,b`` are choices, ``path=0.2..0.6`` a range, ``path=8..64:8`` one in steps, ``path=log:1e-5..1e-2`` one that is
searched by orders of magnitude; a single value holds for all trials. A path that starts with a key of a component, such
as ``quantize.calibrator``, means all components whose section takes it: they have the same value in a trial.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from mmdeploy.core.errors import RecipeError, UsageError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Component, Recipe
from mmdeploy.recipe.sections import annotation_at, members
from mmdeploy.studies.domains import Choices, Range

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<log>log:)?(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?::(?P<step>{_NUMBER}))?")
#: What judges, or names, all trials alike.
_THE_SAME_FOR_ALL = ("gates", "baseline", "subsets", "data", "name", "base", "folder", "schema_version")
#: Sections that say that something is done at all.
_DONE_WHERE_ASKED = ("prune", "recover", "quantize")
#: The choices of an option, or the match of its range.
_Values: TypeAlias = "tuple[str, ...] | re.Match[str]"
#: A value of each dimension, as a recipe's text, by the dimension's option.
Point = Mapping[str, str]


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        option: The path as it was written.
        paths: What it stands for, from the top of the recipe; all have the same value in a trial.
        domain: Its values.
    """

    option: str
    paths: tuple[str, ...]
    domain: Choices | Range

    def overrides(self, text: str) -> tuple[str, ...]:
        """Return what lays a value over the recipe."""
        return tuple(f"{path}={text}" for path in self.paths)


@dataclass(frozen=True)
class Space:
    """What varies, and what holds for all trials.

    Attributes:
        dimensions: What varies, in the order in which it was written.
        fixed: Overrides that hold for all trials.
    """

    dimensions: tuple[Dimension, ...]
    fixed: tuple[str, ...] = ()
    _by_option: dict[str, Dimension] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the dimensions."""
        self._by_option.update({one.option: one for one in self.dimensions})

    @property
    def size(self) -> int | None:
        """How many points there are; None where a range holds any number."""
        sizes = [one.domain.size for one in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def overrides(self, point: Point) -> tuple[str, ...]:
        """Return what makes a point's recipe of the recipe."""
        varied = [text for option, value in point.items() for text in self._by_option[option].overrides(value)]
        return (*self.fixed, *varied)

    def grid(self, levels: int) -> Iterator[dict[str, str]]:
        """Give the points of a grid with at most so many values of each range."""
        options = [one.option for one in self.dimensions]
        for texts in itertools.product(*(one.domain.levels(levels) for one in self.dimensions)):
            yield dict(zip(options, texts, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {
            "dimensions": [
                {"option": one.option, "paths": [*one.paths], "values": str(one.domain)} for one in self.dimensions
            ],
            "fixed": [*self.fixed],
        }


def read_space(options: Sequence[str], path: Path) -> tuple[Space, Recipe]:
    """Read ``--set`` options, and check every value that they come to against the recipe.

    Args:
        options: As they were written, ``path=values``.
        path: The recipe.

    Returns:
        The space, and the recipe with what holds for all trials.

    Raises:
        UsageError: With everything that is wrong, by option and value.
        RecipeError: If the recipe itself is wrong.
    """
    written = [(option, *_split(option)) for option in options]
    plain = load_recipe(path)
    fixed = tuple(
        f"{full}={values[0]}" for _, name, values in written if _is_one(values) for full in _full_paths(name, plain)
    )
    first = tuple(
        f"{name}={_first(values)}" for _, name, values in written if not _is_one(values) and _is_whole_path(name)
    )
    recipe = _loaded(path, fixed, first) if fixed else plain
    dimensions = []
    for option, name, values in written:
        if not _is_one(values):
            paths = _full_paths(name, recipe)
            _refuse_common(option, paths)
            domain = Choices(values) if isinstance(values, tuple) else _range(name, values, _annotation(recipe, paths))
            dimensions.append(Dimension(name, paths, domain))
    space = Space(tuple(dimensions), fixed)
    _require_searchable(space)
    _check_corners(space, path)
    return space, recipe


def _first(values: _Values) -> str:
    return values[0] if isinstance(values, tuple) else values["low"]


def _loaded(path: Path, overrides: Sequence[str], others: Sequence[str]) -> Recipe:
    """Load a recipe, with a value of what varies besides where it is none without: a method that needs an option.

    Raises:
        RecipeError: If it is none with these, either.
    """
    try:
        return load_recipe(path, tuple(overrides))
    except RecipeError as alone:
        try:
            return load_recipe(path, (*overrides, *others))
        except RecipeError as together:
            raise min(together, alone, key=lambda error: len(error.problems)) from None


def as_written(space: Space, recipe: Recipe) -> dict[str, str] | None:
    """Return the point that the recipe itself is; None where it lies outside of the space."""
    data, point = _plain(recipe), {}
    for one in space.dimensions:
        texts = {one.domain.text_of(_value(recipe, data, path)) for path in one.paths}
        if len(texts) != 1 or None in texts:
            return None
        point[one.option] = str(texts.pop())
    return point


def _is_one(values: _Values) -> TypeGuard[tuple[str]]:
    return isinstance(values, tuple) and len(values) == 1


def _split(option: str) -> tuple[str, _Values]:
    """Return an option's path, and its choices or the match of its range."""
    name, equals, text = option.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not all(name.split(".")) or not text:
        raise UsageError(
            f"--set {option}: must be path=values",
            hint="such as quantize.calibrator=minmax,mse or components.fusion.prune.ratio=0.2..0.6",
        )
    if match := _RANGE.fullmatch(text):
        return name, match
    if ".." in text and "," not in text:
        raise UsageError(
            f"--set {option}: {text!r} is no range", hint="write low..high, low..high:step or log:low..high, of numbers"
        )
    texts = _choices(text)
    if not all(texts):
        raise UsageError(f"--set {option}: a value is empty", hint="values are divided by one comma each; null is one")
    if len(set(texts)) < len(texts):
        twice = next(one for one in texts if texts.count(one) > 1)
        raise UsageError(f"--set {option}: the value {twice!r} is there twice")
    return name, texts


def _choices(text: str) -> tuple[str, ...]:
    """Split at commas that are in no bracket and no quotes."""
    found, depth, quote, current = list[str](), 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            found.append(current.strip())
            current = ""
            continue
        current += letter
    return (*found, current.strip())


def _range(name: str, match: re.Match[str], annotation: Any) -> Range:
    texts = [match[part] for part in ("low", "high", "step") if match[part] is not None]
    low, high, *given = (float(text) for text in texts)
    kinds = members(annotation)
    whole = all(text.lstrip("+-").isdigit() for text in texts)
    integral = float not in kinds and (whole or int in kinds)
    step = given[0] if given else (1.0 if integral and not match["log"] else None)
    problem = None
    if not low < high:
        problem = f"{low:g} is not below {high:g}"
    elif match["log"] and low <= 0:
        problem = f"a range by orders of magnitude starts above 0, not at {low:g}"
    elif match["log"] and given:
        problem = "a range by orders of magnitude has no step"
    elif given and not 0 < given[0] <= high - low:
        problem = f"the step {given[0]:g} is not above 0 and at most {high - low:g}"
    elif integral and not whole:
        problem = "only whole numbers are accepted here"
    if problem:
        raise UsageError(f"--set {name}={match[0]}: {problem}")
    if step is not None:  # the last number that steps come to
        count = int((Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step)))
        high = float(Decimal(repr(low)) + count * Decimal(repr(step)))
    return Range(low, high, step, log=bool(match["log"]), integral=integral)


def _full_paths(name: str, recipe: Recipe) -> tuple[str, ...]:
    """Return what a path means from the top: itself, or that of each component whose section takes it."""
    key, *rest = name.split(".")
    if _is_whole_path(name):
        return (name,)
    data, found = _plain(recipe), list[str]()
    for one, component in recipe.components.items():
        # A section that is missing means "not done": a sweep does not start to prune what the recipe does not.
        there = getattr(component, key) is not None or (not rest and key not in _DONE_WHERE_ASKED)
        if there and annotation_at(data, ("components", one, key, *rest)) is not None:
            found.append(one)
    if not found:
        raise UsageError(
            f"--set {name}: no component has a section {key!r} that takes {'.'.join(rest)!r}",
            hint=f"write components.NAME.{name}; the components are {', '.join(recipe.components)}",
        )
    return tuple(f"components.{one}.{name}" for one in found)


def _is_whole_path(name: str) -> bool:
    """Say whether a path starts at the top of the recipe, and not with a key of a component."""
    key = name.split(".")[0]
    return key in Recipe.model_fields or key not in Component.model_fields


def _annotation(recipe: Recipe, paths: Sequence[str]) -> Any:
    return annotation_at(_plain(recipe), tuple(paths[0].split(".")))


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = recipe.written.model_dump(mode="json", exclude_unset=True)
    return plain


def _value(recipe: Recipe, data: Any, path: str) -> Any:
    """Return the plain value at a place, the schema's default where the recipe says nothing."""
    place: Any = recipe.written
    for key in path.split("."):
        place = place.get(key) if isinstance(place, Mapping) else getattr(place, key, None)
        data = data.get(key) if isinstance(data, dict) else None
    return data if data is not None or hasattr(place, "model_dump") else place


def _require_searchable(space: Space) -> None:
    if not space.dimensions:
        raise UsageError(
            "there is nothing to search: no --set has more than one value",
            hint="write --set quantize.calibrator=minmax,mse or --set components.NAME.prune.ratio=0.2..0.6",
        )
    taken: dict[str, str] = {}
    for one in space.dimensions:
        for path in one.paths:
            if path in taken:
                raise UsageError(f"--set {one.option}: {path} is varied by --set {taken[path]} already")
            taken[path] = one.option


def _refuse_common(option: str, paths: Sequence[str]) -> None:
    """Refuse to vary what makes trials comparable."""
    if (key := paths[0].split(".")[0]) in _THE_SAME_FOR_ALL:
        raise UsageError(
            f"--set {option}: trials could not be compared: {key} must be the same for all of them",
            hint="a single value is accepted, and holds for all",
        )


def _check_corners(space: Space, path: Path) -> None:
    problems = []
    for one in space.dimensions:
        wrong: dict[str, list[str]] = {}
        others = [text for other in space.dimensions if other is not one
                  for text in other.overrides(other.domain.corners[0])]  # fmt: skip
        for text in one.domain.corners:
            try:
                _loaded(path, (*space.fixed, *one.overrides(text)), others)
            except RecipeError as error:
                told = "; ".join(dict.fromkeys(_reason(str(problem.message)) for problem in error.problems))
                wrong.setdefault(told, []).append(repr(text))
        problems += [
            f"--set {one.option}={one.domain}: {' and '.join(texts)} cannot be: {told}" for told, texts in wrong.items()
        ]
    if problems:
        raise UsageError("\n".join(problems), hint="mmdeploy list shows what each method takes")


def _reason(message: str) -> str:
    return " ".join(message.split())

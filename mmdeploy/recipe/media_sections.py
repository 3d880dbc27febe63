"""A section of the recipe for each method of preprocess and postprocess: made when a recipe has such a step.

Most recipes have none, and making these classes costs every start of mmdeploy what it takes to import all methods.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag, create_model

from mmdeploy.preprocess import METHODS
from mmdeploy.recipe.declared import TensorName
from mmdeploy.recipe.media import MediaStep, OwnStep

_OWN = "own"


def _section(name: str, method: type[Any]) -> type[MediaStep]:
    """Return the section of a method: its options as they are declared there."""
    hints = typing.get_type_hints(method)
    fields: dict[str, Any] = {
        "method": (Literal[name], Field(name)),
        "outputs": (dict[TensorName, TensorName], MediaStep.model_fields["outputs"]),
    }
    for option in dataclasses.fields(method):
        told = dict(option.metadata)
        about, is_path = told.get("about"), told.get("path")
        annotation = hints[option.name]
        if is_path:
            annotation = Path | None if type(None) in typing.get_args(annotation) else Path
        default = ... if option.default is dataclasses.MISSING else option.default
        fields[option.name] = (annotation, Field(default, description=about))
    made = create_model(f"{method.__name__}Step", __base__=MediaStep, __module__=__name__, **fields)
    made.__doc__ = method.__doc__
    return cast(type[MediaStep], made)


#: By the name of the method.
SECTIONS: Mapping[str, type[MediaStep]] = {name: _section(name, method) for name, method in METHODS.items()}

# Recipes are pickled to the processes of steps: a class is found by its name in its module.
globals().update({section.__name__: section for section in SECTIONS.values()})


def _tag(value: Any) -> Any:
    method = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
    return _OWN if OwnStep.is_meant(method) else method


#: What a recipe says of a step: one of these, or a function of its own.
STEP: Any = Annotated[
    functools.reduce(
        operator.or_,
        [Annotated[section, Tag(name)] for name, section in SECTIONS.items()] + [Annotated[OwnStep, Tag(_OWN)]],
    ),
    Discriminator(_tag),
]

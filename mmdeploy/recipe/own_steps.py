"""Functions of a recipe's own in ``preprocess`` and ``postprocess``: how they are named, and what they take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import did_you_mean
from mmdeploy.recipe.finding import Finding

if TYPE_CHECKING:
    import ast

    from mmdeploy.recipe.media import OwnStep
    from mmdeploy.recipe.yaml_tree import Keys

#: How such a step is named, in lists of what ``method`` accepts.
REFERENCE = "path.py:callable"
#: The key that others would write for ``method``.
SPELT_OTHERWISE = "python"
_PACKAGE = Path(__file__).parents[1]
_MODULE = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*):([A-Za-z_]\w*)")


def spelling(reference: str) -> str:
    """Say how a function of one's own is written."""
    found = reference if ":" in reference else f"{reference}:callable"
    return f"unknown key {SPELT_OTHERWISE!r}; a step of your own is method: {found}"


def advice(method: str) -> str:
    """Say what to write for a function of one's own that is named in another way; empty where that is not known."""
    name, _, rest = method.partition(":")
    if name == SPELT_OTHERWISE:
        return f"a step of your own is method: {rest or REFERENCE}"
    if method.endswith(".py"):
        return f"name the function in it: {method}:callable"
    if (found := _MODULE.fullmatch(method)) is not None:
        top, deeper, function = found.groups()
        path = f"{top}{deeper}".replace(".", "/")
        return (
            f"a file beside the recipe is {path}.py:{function}; what a package holds, import in such a file (from "
            f"{top}{deeper} import {function}): its version goes into the release's requirements.txt"
        )
    return ""


def undeclared(output: str, value: Any) -> str:
    """Say how an output is declared that is written as of other methods."""
    tensor = value if isinstance(value, str) else output
    return (
        "what a function of your own gives is declared, for it is not run to find out: "
        f"{output}: {{tensor: {tensor}, dtype: FP32, shape: [2]}}, with its type and the shape of one sample"
    )


def signature_findings(place: Keys, step: OwnStep, module: ast.Module) -> Iterator[Finding]:
    """Find inputs and arguments that a step's function does not take, and those that it lacks, without running it.

    Args:
        place: Of the step.
        step: The step.
        module: Its file, parsed.
    """
    import ast

    name = step.method.rpartition(":")[2]
    found = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1 or found[0].decorator_list:
        return  # what it takes shows when it is called
    arguments = found[0].args
    positional = [one.arg for one in arguments.args]
    optional = positional[len(positional) - len(arguments.defaults) :]
    optional += [one.arg for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    takes = [*positional, *(one.arg for one in arguments.kwonlyargs)]
    unknown = False
    for section, given in (("inputs", step.inputs), ("arguments", step.arguments)):
        for key in given:
            message = ""
            if key not in takes and arguments.kwarg is None:
                message = f"{step.method} takes no {key!r}; {did_you_mean(key, takes)}"
            elif section == "arguments" and key in step.inputs:
                message = f"{key!r} is wired under inputs too: name one of them otherwise"
            if message:
                unknown = True
                yield Finding((*place, section, key), message, involves=((*place, "method"),))
    for key in () if unknown else takes:
        if key not in optional and key not in step.inputs and key not in step.arguments:
            message = f"{step.method} takes {key!r}: wire it under inputs, or give it under arguments"
            yield Finding((*place, "inputs"), message, involves=((*place, "method"),), needs_all=True)


def outside_problem(step: OwnStep, root: Path) -> str:
    """Say which code a step's function imports that a release cannot hold; empty where it can hold all."""
    from mmdeploy.model.imports import code_behind

    root = root.resolve()
    outside = [path for path in code_behind(step.method, root).files if not path.is_relative_to(root)]
    if not outside:
        return ""
    if any(path.is_relative_to(_PACKAGE) for path in outside):
        return (
            f"{step.method} imports mmdeploy, which a release does not hold: let another step do that, whose "
            "output this one reads, or write what it needs beside the recipe"
        )
    return f"{step.method} needs {outside[0]}, which is not beside the recipe: copy it there"

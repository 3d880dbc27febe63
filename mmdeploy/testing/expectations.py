"""What is asked of every plug-in: its members, its words, its options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mmdeploy.core.contracts import MethodOptions
from mmdeploy.plugins.contract import Contract
from mmdeploy.plugins.loading import Plugin, Source
from mmdeploy.plugins.registry import Registry
from mmdeploy.recipe.sections import described


def expect(holds: object, otherwise: str) -> None:
    """Raise an AssertionError with these words unless something holds."""
    if not holds:
        raise AssertionError(otherwise)


def plugged(found: object, registry: Registry[Any], contract: Contract | None = None) -> Any:
    """Return an object as mmdeploy would use it: its members checked, the missing ones filled in.

    Raises:
        AssertionError: If it is none of its kind.
    """
    contract = contract or registry.contract
    if isinstance(found, Plugin):
        return found
    own = [method for method, module in registry.built_in.items() if module is found]
    if own:
        built_in = registry.built_in[own[0]]
        expect(built_in.Options.model_fields["method"].default == own[0], f"{own[0]}: Options name another method")
        return built_in
    problems = list(contract.problems(found))
    name = getattr(found, "__qualname__", None) or getattr(found, "__name__", type(found).__name__)
    expect(not problems, f"{name} is no {contract.noun}: {'; '.join(problems)}; it needs {contract.members}")
    place = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", "")
    reference = place if inspect.ismodule(found) else f"{place}:{name}"
    return Plugin(found, Source(reference, reference), registry)


def options_of(method: Any, given: Mapping[str, Any]) -> MethodOptions:
    """Return the options of a method, after a look at their class.

    Raises:
        AssertionError: If the class takes what it should not, says nothing, or has a schema that refuses what it takes.
    """
    import jsonschema

    kind = method.Options
    expect((method.__doc__ or "").strip(), "there is no docstring: `mmdeploy list` prints it")
    try:
        options: MethodOptions = kind.model_validate_json(json.dumps(dict(given)))
    except ValidationError as error:
        raise AssertionError(f"its Options refuse {dict(given)}: {error}") from error
    except TypeError as error:
        raise AssertionError(f"options must be what JSON can hold, not {dict(given)}: {error}") from error
    texts = described(kind)
    silent = [name for name in kind.model_fields if name != "method" and name not in texts]
    expect(not silent, f"not described in the docstring's Attributes or by Field(description=…): {', '.join(silent)}")
    schema = kind.model_json_schema()
    expect(schema.get("additionalProperties") is False, "its Options take unknown keys: keep extra='forbid'")
    jsonschema.validate(dict(given), schema)
    try:
        kind.model_validate_json(json.dumps({**given, "no_such_option": 1}))
    except ValidationError:
        pass
    else:
        raise AssertionError("its Options take an unknown key: a misspelt option would be ignored")
    expect(kind.model_config.get("frozen"), "its Options are not frozen")
    back = kind.model_validate_json(options.model_dump_json())
    expect(back == options, "its Options are others after a way through JSON: a step is given them so")
    return options


def expect_json(value: object, what: str) -> None:
    """Ask that a value can be written as strict JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} must be what JSON can hold, without NaN and infinities: {error}") from error

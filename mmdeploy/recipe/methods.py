"""Sections of a recipe that hold the options of one method: built in, installed, or named by reference.

The built-in methods are a union of their ``Options``. What comes from outside is one alternative more: which class
validates it is found when it is read, so that a recipe imports the plug-ins that it names and no others.
"""

from __future__ import annotations

import functools
import json
import logging
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Discriminator, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.errors import PluginError
from mmdeploy.plugins.registry import Registry, is_reference

logger = logging.getLogger(__name__)

#: Tag of the alternative; also the kind of pydantic's errors about a plug-in as such.
PLUGGED_IN = "plug-in"
#: Where pydantic's schema of a `NotYet` says so, for the JSON schema.
STANDS_FOR = "mmdeploy_stands_for"
#: What a reference to a plug-in looks like, for editors.
_REFERENCE_PATTERN = r"^([^:]+\.py(:[A-Za-z_][A-Za-z0-9_]*)?|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"


class PluggedIn(MethodOptions):
    """Options of what is plugged in, by the name that it is installed under or as path.py:name."""

    registry: ClassVar[Registry[Any]]

    @classmethod
    def options_of(cls, method: object) -> type[MethodOptions] | None:
        """Return the class of a method's options; None where there is none, or it cannot be loaded."""
        try:
            return cls.registry.find(method).Options if cls._is_outside(method) else None  # type: ignore[arg-type]
        except PluginError:
            return None

    @classmethod
    def _is_outside(cls, method: object) -> bool:
        if not isinstance(method, str) or method in cls.registry.built_in:
            return False
        return is_reference(method) or method in cls.registry.installed()

    @classmethod
    def _read(cls, value: Any) -> MethodOptions:
        """Validate what a recipe says of a plug-in; nested errors keep their places."""
        if isinstance(value, MethodOptions):
            return value
        try:
            options: type[MethodOptions] = cls.registry.find(value["method"]).Options
        except PluginError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise PydanticCustomError(PLUGGED_IN, "{told}", {"told": f"{error.message}{hint}"}) from error
        return options.model_validate_json(json.dumps(value), strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Choose the class when a value is there; write it whole, as the class that it is."""
        whole = core_schema.simple_ser_schema("any")
        return core_schema.no_info_plain_validator_function(cls._read, serialization=whole)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        """Tell the installed ones with their options; of a reference, that it is one."""
        known = []
        for name in cls.registry.installed():
            try:
                known.append(handler(TypeAdapter(cls.registry[name].Options).core_schema))
            except PluginError as error:
                logger.warning("the schema lacks %s: %s", name, error.message)
        reference = {
            "title": "by reference",
            "description": f"A {cls.registry.contract.noun} beside the recipe or in a package, with its own options.",
            "type": "object",
            "properties": {"method": {"type": "string", "pattern": _REFERENCE_PATTERN}},
            "required": ["method"],
        }
        return {"oneOf": [*known, reference]} if known else reference


class NotYet:
    """Stands in the schema for sections that are made, and whose modules are imported, when a recipe has one."""

    @classmethod
    def annotation(cls) -> Any:
        """Return what it stands for."""
        raise NotImplementedError

    @classmethod
    @functools.cache
    def adapter(cls) -> TypeAdapter[Any]:
        """Return what validates it."""
        return TypeAdapter(cls.annotation())

    @classmethod
    def _read(cls, value: Any) -> Any:
        """Validate what a recipe says there; nested errors keep their places."""
        if isinstance(value, BaseModel):
            return value
        return cls.adapter().validate_json(json.dumps(value), strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Choose the class when a value is there; write it whole, as the class that it is."""
        whole = core_schema.simple_ser_schema("any")
        found = core_schema.no_info_plain_validator_function(cls._read, serialization=whole)
        found["metadata"] = {STANDS_FOR: cls}
        return found


class BuiltInOptions(NotYet):
    """Options of a built-in method."""

    registry: ClassVar[Registry[Any]]
    name_of_method: ClassVar[str]

    @classmethod
    def annotation(cls) -> Any:
        """Return the method's own class."""
        return cls.registry.built_in[cls.name_of_method].Options


def union_of(methods: Mapping[str, Any], *more: type[BaseModel]) -> Any:
    """Return the annotation of a section that holds the options of one of ``methods``.

    Args:
        methods: By name. The built-in ones of a `Registry` are known to the schema, the others found when read.
        more: Sections besides, told apart by their ``method`` too.
    """
    alternatives: list[Any] = [Annotated[section, Tag(section.model_fields["method"].default)] for section in more]
    if isinstance(methods, Registry):
        built_in: Mapping[str, Any] = methods.built_in
        alternatives += [Annotated[_not_yet(methods, name), Tag(name)] for name in built_in]
    else:
        built_in = methods
        alternatives += [Annotated[module.Options, Tag(name)] for name, module in built_in.items()]
    plugged_in: type[PluggedIn] | None = None
    if isinstance(methods, Registry):
        plugged_in = type("PluggedIn", (PluggedIn,), {"registry": methods, "__doc__": PluggedIn.__doc__})
        alternatives.append(Annotated[plugged_in, Tag(PLUGGED_IN)])
    only = next(iter(built_in)) if len(built_in) == 1 and not more else None
    union = functools.reduce(operator.or_, alternatives)
    return Annotated[union, Discriminator(_tag(plugged_in, only))]


def _not_yet(registry: Registry[Any], name: str) -> type[BuiltInOptions]:
    said = {"registry": registry, "name_of_method": name, "__doc__": BuiltInOptions.__doc__}
    return type("BuiltInOptions", (BuiltInOptions,), said)


def _tag(plugged_in: type[PluggedIn] | None, only: str | None) -> Callable[[Any], Any]:
    """Return what says which alternative a value is; ``only`` is the method that need not be named."""

    def tag(value: Any) -> Any:
        method = value.get("method", only) if isinstance(value, dict) else getattr(value, "method", only)
        if not isinstance(method, str):
            return None if method is None else json.dumps(method)
        return PLUGGED_IN if plugged_in is not None and plugged_in._is_outside(method) else method

    return tag

"""Typed facts in an artifact's metadata: a frozen dataclass that its writer fills and every reader gets back.

Metadata is JSON in the store and in ``report.json``, so that a report shows whatever a pass tells. What another module
reads is a dataclass beside its writer: `as_metadata` writes it, `read` checks it and gives it back. Neither side spells
a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mmdeploy.core.errors import StepError

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact

Facts = TypeVar("Facts")


def as_metadata(facts: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values, for an artifact's metadata.

    Raises:
        PydanticSerializationError: If a field is not of the type that it says.
    """
    fields: dict[str, Any] = _adapter(type(facts)).dump_python(facts, mode="json", warnings="error")
    return fields


def read(kind: type[Facts], artifact: Artifact, *, under: str | None = None) -> Facts:
    """Read what the step that made an artifact wrote with `as_metadata`; metadata of other names are passed over.

    Args:
        kind: The dataclass.
        artifact: Whose metadata it is in.
        under: Name in the metadata that holds the fields; None where they stand in it themselves.

    Raises:
        StepError: If a fact is missing, or not what it should be.
    """
    try:
        return _adapter(kind).validate_python(_fields(artifact.metadata, under))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ([under] if under else []) + [*first["loc"]])
        raise StepError(
            f"what {artifact.produced_by} made says nothing usable of {where!r} in its metadata: {first['msg']}",
            hint=f"write it there with `as_metadata({kind.__name__}(...))`; docs/extending.md lists these facts",
        ) from error


def find(kind: type[Facts], metadata: Mapping[str, Any], *, under: str | None = None) -> Facts | None:
    """Read facts that need not be there: of a step that may have failed, of another kind, or of an older report.

    Returns:
        None where they are missing or not what they should be.
    """
    try:
        return _adapter(kind).validate_python(_fields(metadata, under))
    except ValidationError:
        return None


def _fields(metadata: Mapping[str, Any], under: str | None) -> Any:
    return metadata if under is None else metadata.get(under)


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Facts]) -> TypeAdapter[Facts]:
    """Return what checks a dataclass: made when it is first asked for, since that takes milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]

"""The OpenAPI document of a gateway: what *these* models take and give, and every way in which a request can fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.strings import BYTES
from mmdeploy.gateway.catalogue import Input, Model
from mmdeploy.gateway.parts import FORM, JSON
from mmdeploy.gateway.problems import STATUS, Code

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mmdeploy.gateway.service import Gateway

Schema = dict[str, Any]

#: Names that Triton may know a model by; nothing that means something in a path.
MODEL_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,199}"
_MOST_CLASSES_TOLD = 1000
_DESCRIPTIONS: Mapping[Code, str] = {
    "bad_request": "The request is wrong: the message says what.",
    "unauthorized": "No key, or one that is not known.",
    "forbidden": "The key may not do this, or a page of another origin asks.",
    "not_found": "There is no such thing here.",
    "timeout": "The body did not arrive in time.",
    "conflict": "The server cannot do this now.",
    "too_large": "Too many bytes, or too many rows.",
    "unsupported_media_type": "Neither JSON nor a form.",
    "rate_limit": "More requests than this key may send; Retry-After says when to come again.",
    "internal": "A bug in the gateway.",
    "server_failed": "The model server failed at the request.",
    "busy": "Too many requests at once, or the model server is away; Retry-After says when to come again.",
    "server_timeout": "The model did not answer in time.",
}
_COMMON: tuple[Code, ...] = ("bad_request", "forbidden", "internal", "busy")
_ASKING: tuple[Code, ...] = (
    "unauthorized", "not_found", "timeout", "too_large", "unsupported_media_type", "rate_limit", "server_failed",
    "server_timeout",
)  # fmt: skip
_CONTROL: tuple[Code, ...] = ("unauthorized", "not_found", "conflict", "timeout", "too_large")

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "enum": list(get_args(Code)), "description": "For programs."},
                "message": {"type": "string", "description": "What is wrong, for people."},
                "hint": {"type": "string", "description": "What to do about it."},
                "request_id": {"type": "string", "description": "What the gateway's log calls the request."},
            },
        }
    },
}
_STRINGS: Schema = {"type": "array", "items": {"type": "string"}}
_ROW: Schema = {
    "outputs": {"type": "object", "description": "Each output as lists; strings as text; null for no number."},
    "top": {
        "type": "object",
        "description": "The best classes, by the output that tells them, the best first.",
        "additionalProperties": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "class": {"type": "integer"},
                    "label": {"type": "string"},
                    "share": {"type": ["number", "null"], "description": "Of 1."},
                    "score": {"type": ["number", "null"]},
                },
            },
        },
    },
    "modalities": {
        "type": "object",
        "description": "Inputs that were sent, and those that were not.",
        "required": ["used", "missing"],
        "properties": {"used": _STRINGS, "missing": _STRINGS},
    },
    "not_finite": {**_STRINGS, "description": "Outputs that hold NaN or infinity, which JSON has not."},
}
_ABOUT: Schema = {
    "model": {"type": "string"},
    "served_by": {"type": "string", "description": "The model, or the candidate beside it that answered."},
    "request_id": {"type": "string"},
    "milliseconds": {"type": "number"},
}
_ROW_KEYS = ["outputs", "top", "modalities"]
_ARM: Schema = {
    "type": "object",
    "required": ["requests", "failed", "latencies_ms"],
    "properties": {
        "requests": {"type": "integer"},
        "failed": {"type": "integer"},
        "latencies_ms": {"type": "array", "items": {"type": "number"}},
    },
}
_SCHEMAS: Mapping[str, Schema] = {
    "Error": _ERROR,
    "Answer": {"type": "object", "required": [*_ABOUT, *_ROW_KEYS], "properties": {**_ABOUT, **_ROW}},
    "Answers": {
        "type": "object",
        "required": [*_ABOUT, "rows"],
        "properties": {
            **_ABOUT,
            "rows": {"type": "array", "items": {"type": "object", "required": _ROW_KEYS, "properties": _ROW}},
        },
    },
    "Rollout": {
        "type": "object",
        "required": ["candidate", "share", "shadow", "arms", "compared"],
        "properties": {
            "candidate": {"type": "string"},
            "share": {"type": "number"},
            "shadow": {"type": "boolean"},
            "arms": {"type": "object", "required": ["live", "candidate"], "additionalProperties": _ARM},
            "compared": {
                "type": "object",
                "required": ["pairs", "agree", "worst_difference"],
                "properties": {
                    "pairs": {"type": "integer"},
                    "agree": {"type": "integer"},
                    "worst_difference": {"type": "number"},
                },
            },
        },
    },
    "Models": {
        "type": "object",
        "required": ["models"],
        "properties": {"models": {"type": "array", "items": {"type": "object", "required": ["name", "inputs"]}}},
    },
    "Loaded": {"type": "object", "required": ["loaded"], "properties": {"loaded": {"type": "string"}}},
    "Health": {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}},
    "Ready": {
        "type": "object",
        "required": ["status", "models"],
        "properties": {"status": {"const": "ready"}, "models": _STRINGS},
    },
}
_NEW_ROLLOUT: Schema = {
    "type": "object",
    "required": ["candidate"],
    "additionalProperties": False,
    "properties": {
        "candidate": {"type": "string", "minLength": 1, "description": "A model that is loaded beside the live one."},
        "share": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.1, "description": "Of the requests."},
        "shadow": {"type": "boolean", "default": False, "description": "Whether its answers are only compared."},
    },
}


def _answers(name: str, codes: Iterable[Code]) -> dict[int | str, dict[str, Any]]:
    """Return what FastAPI is told of an endpoint's answers."""
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "The answer.", "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}
    }
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    for code in codes:
        found[STATUS[code]] = {"description": _DESCRIPTIONS[code], "content": error}
    return dict(sorted(found.items()))


def asking(what: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of an endpoint that asks a model about one sample, or several."""
    return _answers("Answer" if what == "one sample" else "Answers", (*_COMMON, *_ASKING))


MODELS = _answers("Models", (*_COMMON, "unauthorized", "rate_limit"))
HEALTH = _answers("Health", ("forbidden", "internal", "busy"))
READY = _answers("Ready", ("forbidden", "internal", "busy"))
METRICS: dict[int | str, dict[str, Any]] = {
    **_answers("Error", ("forbidden", "internal", "busy")),
    200: {"description": "In Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}
LOAD = _answers("Loaded", (*_COMMON, *_CONTROL))
ROLLOUT = _answers("Rollout", (*_COMMON, *_CONTROL))


def told(model: Model) -> dict[str, Any]:
    """Return what ``/models`` says of a model."""
    inputs = [
        {
            "name": name,
            "kind": one.kind,
            "looks_like": one.looks_like,
            "dtype": one.spec.dtype,
            "shape": list(one.spec.shape),
            "optional": one.optional,
            "range": None if one.span is None else list(one.span),
        }
        for name, one in model.inputs.items()
    ]
    outputs = [
        {"name": name, "dtype": one.spec.dtype, "shape": list(one.spec.shape), "meaning": one.meaning}
        | ({"classes": list(one.labels)} if 0 < len(one.labels) <= _MOST_CLASSES_TOLD else {})
        for name, one in model.outputs.items()
    ]
    about = {"name": model.name, "release": model.release, "max_batch_size": model.max_batch_size}
    return {**about, "inputs": inputs, "outputs": outputs}


def document(app: FastAPI, gateway: Gateway) -> dict[str, Any]:
    """Return the document of what is served now."""
    from fastapi.openapi.utils import get_openapi

    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=__doc__)
    found["components"] = {"schemas": dict(_SCHEMAS), "securitySchemes": _security(gateway)}
    models = [*gateway.models.values()]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            if path in ("/infer", "/batch"):
                operation["requestBody"] = _request_body(models, gateway.settings.max_rows, batch=path == "/batch")
                operation["parameters"] = [_which(models)]
            elif "{name}" in path:
                named = {"name": "name", "in": "path", "required": True}
                operation["parameters"] = [{**named, "schema": {"type": "string", "pattern": f"^{MODEL_NAME}$"}}]
            if method == "put":
                operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _NEW_ROLLOUT}}}
            operation["security"] = _wanted(path, gateway)
    return found


def _security(gateway: Gateway) -> Schema:
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "admin": {"type": "http", "scheme": "bearer", "description": "The admin's key."},
    }


def _wanted(path: str, gateway: Gateway) -> list[Schema]:
    if "{name}" in path:
        return [{"admin": []}]
    clients = path in ("/infer", "/batch", "/models") and gateway.settings.keys.clients
    return [{"bearer": []}, {"header": []}] if clients else []


def _which(models: list[Model]) -> Schema:
    schema: Schema = {"type": "string", "enum": [one.name for one in models]} if models else {"type": "string"}
    return {"name": "model", "in": "query", "required": len(models) > 1, "schema": schema}


def _request_body(models: list[Model], most: int, *, batch: bool) -> Schema:
    bodies, forms = [], []
    for model in models:
        row = _row(model)
        rows = {"type": "array", "minItems": 1, "maxItems": min(most, max(1, model.max_batch_size)), "items": row}
        field = {"rows": rows} if batch else {"inputs": row}
        shape = {"type": "object", "required": [*field], "additionalProperties": False, "properties": field}
        bodies.append({"title": model.name, **shape})
        forms.append(_form(model, batch=batch))
    suffix = "[0]" if batch else ""
    lists = [f"{name}{suffix}" for model in models for name, one in model.inputs.items() if one.kind == "tensor"]
    encoding = {"encoding": {name: {"contentType": JSON} for name in lists}} if lists else {}
    content = {JSON: {"schema": _any_of(bodies)}, FORM: {"schema": _any_of(forms), **encoding}}
    return {"required": True, "content": content}


def _any_of(schemas: list[Schema]) -> Schema:
    if len(schemas) == 1:
        return schemas[0]
    return {"anyOf": schemas} if schemas else {"type": "object"}


def _row(model: Model) -> Schema:
    needed = [name for name, one in model.inputs.items() if not one.optional]
    found: Schema = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {name: _input(one) for name, one in model.inputs.items()},
    }
    return {**found, "required": needed} if needed else found


def _input(one: Input) -> Schema:
    file = {
        "type": "object",
        "required": ["base64"],
        "additionalProperties": False,
        "properties": {"base64": {"type": "string", "format": "byte"}},
    }
    if one.spec.dtype == BYTES:
        if one.kind in ("image", "audio", "video"):
            return file
        return {"anyOf": [{"type": "string"}, file]}
    file["description"] = f"An .npy file, or {one.spec.dtype} in little-endian order."
    return {"anyOf": [_lists(one), file]}


def _lists(one: Input) -> Schema:
    schema = _number(one)
    for size in reversed(one.spec.shape):
        bounds = {} if size < 0 else {"minItems": size, "maxItems": size}
        schema = {"type": "array", **bounds, "items": schema}
    return schema


def _number(one: Input) -> Schema:
    dtype = one.spec.numpy_dtype if one.spec.dtype in NUMPY_BY_DTYPE else np.dtype("float32")
    if dtype.kind == "b":
        return {"type": "boolean"}
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    low, high = one.span or (limits.min, limits.max)
    if dtype.kind in "iu":
        return {"type": "integer", "minimum": int(low), "maximum": int(high)}
    return {"type": "number", "minimum": float(low), "maximum": float(high)}


def _form(model: Model, *, batch: bool) -> Schema:
    about = "Further rows have parts likewise, numbered [1], [2] and so on." if batch else None
    suffix = "[0]" if batch else ""
    properties: Schema = {}
    for name, one in model.inputs.items():
        file = one.kind in ("image", "audio", "video", "bytes")
        properties[f"{name}{suffix}"] = {"type": "string", **({"format": "binary"} if file else {})}
        if one.kind == "tensor":
            properties[f"{name}{suffix}"] = {**_lists(one), "description": "Lists in JSON, or an .npy file."}
    needed = [f"{name}{suffix}" for name, one in model.inputs.items() if not one.optional]
    found: Schema = {"title": model.name, "type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": needed} if needed else {}) | ({"description": about} if about else {})

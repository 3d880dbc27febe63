"""The gateway's endpoints, as a FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from mmdeploy.core.version import __version__
from mmdeploy.gateway import openapi
from mmdeploy.gateway.answers import confidences, rows_of_answer
from mmdeploy.gateway.body import read_body
from mmdeploy.gateway.catalogue import Model
from mmdeploy.gateway.envelope import Envelope, Told, error_response
from mmdeploy.gateway.keys import Key
from mmdeploy.gateway.page import PAGE, page_policy
from mmdeploy.gateway.parts import checked_object, json_kind, parsed, rows_of
from mmdeploy.gateway.problems import Code, Refused
from mmdeploy.gateway.service import Gateway
from mmdeploy.gateway.values import tensors_of

_CODES: dict[int, Code] = {404: "not_found", 405: "method_not_allowed"}
_STICKY = "x-sticky-key"
_NAMED = Query(default=None, description="Name of the model; may be left out where one is served.")


def application(gateway: Gateway) -> Envelope:
    """Return the ASGI application of a gateway."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await gateway.open()
        try:
            yield
        finally:
            await gateway.close()

    app = FastAPI(
        title="mmdeploy gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _refusals(app)
    _asking(app, gateway)
    _telling(app, gateway)
    _controlling(app, gateway)
    app.openapi = lambda: openapi.document(app, gateway)  # type: ignore[method-assign]
    return Envelope(app, gateway)


def _refusals(app: FastAPI) -> None:
    """Have every error be told in one form."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return error_response(error, _told(request))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _CODES.get(error.status_code, "bad_request")
        message = {"not_found": "there is nothing here", "method_not_allowed": "not by this method"}.get(code, "")
        answer = error_response(Refused(code, message or str(error.detail)), _told(request))
        answer.headers.update(error.headers or {})
        if error.status_code == 405:  # what was found may be one route of several with this path
            found = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
            answer.headers["Allow"] = ", ".join(
                sorted({one for route in found for one in getattr(route, "methods", ())})
            )
        return answer

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        return error_response(Refused("bad_request", f"{where}: {wrong['msg']}"), _told(request))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _asking(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/infer", summary="Ask a model about one sample.", responses=openapi.asking("one sample"))
    async def infer(request: Request, model: str | None = _NAMED) -> Response:
        return await _infer(request, gateway, model, batch=False)

    @app.post("/batch", summary="Ask a model about several samples.", responses=openapi.asking("several samples"))
    async def batch(request: Request, model: str | None = _NAMED) -> Response:
        return await _infer(request, gateway, model, batch=True)


async def _infer(request: Request, gateway: Gateway, name: str | None, *, batch: bool) -> Response:
    """Answer a sample, or several, from the body to JSON."""
    told, started = _told(request, "/batch" if batch else "/infer"), time.perf_counter()
    _require_client(request, gateway)
    model = await gateway.model(name)
    told.model = model.name
    gateway.require_room()
    with gateway.buffered.hold() as held:
        body = await read_body(request, gateway.settings, held)
        content_type = request.headers.get("content-type", "")
        rows = await asyncio.to_thread(rows_of, body, content_type, batch=batch)
        _require_few(model, rows, gateway.settings.max_rows)
        feed_dict, sent = await asyncio.to_thread(tensors_of, model, rows)
        del body, rows
        answers, release = await gateway.answer(model, feed_dict, request.headers.get(_STICKY))
        answered = await asyncio.to_thread(rows_of_answer, model, answers, sent)
    gateway.metrics.answered(model.name, sent, model.inputs, confidences(model, answers))
    told.fields |= {"rows": len(sent), "sent": sorted({one for row in sent for one in row})}
    if release != model.name:
        told.fields["candidate"] = release
    about = {
        "model": model.name,
        "served_by": release,
        "request_id": told.request_id,
        "milliseconds": round((time.perf_counter() - started) * 1000, 3),
    }
    return JSONResponse({**about, "rows": answered} if batch else {**about, **answered[0]})


def _require_few(model: Model, rows: list[Any], most: int) -> None:
    allowed = min(most, max(1, model.max_batch_size))
    if len(rows) > allowed:
        whose = "this gateway takes" if allowed == most else f"{model.name} takes"
        raise Refused("too_large", f"the request has {len(rows)} rows, {whose} {allowed}", hint="send several requests")


def _telling(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/models", summary="What the served models take and give.", responses=openapi.MODELS)
    async def models(request: Request) -> Response:
        _told(request, "/models")
        _require_client(request, gateway)
        return JSONResponse({"models": [openapi.told(model) for model in gateway.models.values()]})

    @app.get("/health", summary="Whether the gateway runs.", responses=openapi.HEALTH)
    async def health(request: Request) -> Response:
        _told(request, "/health")
        return JSONResponse({"status": "ok"})

    @app.get("/ready", summary="Whether every model answers a probe.", responses=openapi.READY)
    async def ready(request: Request) -> Response:
        _told(request, "/ready")
        await gateway.require_ready()
        return JSONResponse({"status": "ready", "models": sorted(gateway.models)})

    @app.get("/metrics", summary="Counters for Prometheus.", responses=openapi.METRICS)
    async def metrics(request: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        _told(request, "/metrics")
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        _told(request, "/")
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": page_policy()})


def _controlling(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/models/{name}/load", summary="Load a model, or load it again.", responses=openapi.LOAD)
    async def load(request: Request, name: str) -> Response:
        _told(request, "/models/{name}/load")
        _require_admin(request, gateway)
        if not re.fullmatch(openapi.MODEL_NAME, name):
            raise Refused("not_found", f"{name[:80]!r} is no name of a model")
        await gateway.load(name)
        return JSONResponse({"loaded": name})

    @app.put("/rollout/{name}", summary="Put a candidate beside a model.", responses=openapi.ROLLOUT)
    async def begin(request: Request, name: str) -> Response:
        told = _told(request, "/rollout/{name}")
        _require_admin(request, gateway)
        with gateway.buffered.hold() as held:
            given = parsed(await read_body(request, gateway.settings, held))
        candidate, share, shadow = _rollout(given)
        rollout = await gateway.begin_rollout(name, candidate, share, shadow)
        told.model = name
        return JSONResponse(rollout.told())

    @app.get("/rollout/{name}", summary="How a candidate does.", responses=openapi.ROLLOUT)
    async def state(request: Request, name: str) -> Response:
        _told(request, "/rollout/{name}")
        _require_admin(request, gateway)
        rollout = gateway.rollouts.get(name)
        return JSONResponse(_present(rollout, name).told())

    @app.delete("/rollout/{name}", summary="Take a candidate away.", responses=openapi.ROLLOUT)
    async def end(request: Request, name: str) -> Response:
        _told(request, "/rollout/{name}")
        _require_admin(request, gateway)
        return JSONResponse(_present(await gateway.end_rollout(name), name).told())


def _present(rollout: Any, name: str) -> Any:
    if rollout is None:
        raise Refused("not_found", f"{name[:80]!r} has no candidate beside it")
    return rollout


def _rollout(given: Any) -> tuple[str, float, bool]:
    """Read the body of a PUT."""
    fields = checked_object(given, "the body")
    if unknown := sorted(set(fields) - {"candidate", "share", "shadow"}):
        raise Refused("bad_request", f"the body has {unknown[0][:80]!r}; accepted: candidate, share, shadow")
    candidate, share, shadow = fields.get("candidate"), fields.get("share", 0.1), fields.get("shadow", False)
    if not isinstance(candidate, str) or not candidate:
        raise Refused("bad_request", f"candidate is {json_kind(candidate)}, expected the name of a model")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise Refused("bad_request", "share is not from 0 to 1")
    if not isinstance(shadow, bool):
        raise Refused("bad_request", f"shadow is {json_kind(shadow)}, expected true or false")
    return candidate, float(share), shadow


def _told(request: Request, endpoint: str = "") -> Told:
    told: Told = request.state.told
    if endpoint:
        told.endpoint = endpoint
    return told


def _secret(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


def _require_client(request: Request, gateway: Gateway) -> None:
    """Let in who may ask, as often as they may."""
    keys, secret, told = gateway.settings.keys, _secret(request), _told(request)
    key: Key | None = keys.client(secret) if secret else None
    if key is None and keys.clients:
        raise _unauthorized(secret)
    told.key = key.name if key else None
    client = request.client.host if request.client else "unknown"
    wait_s = gateway.rate.wait_s(key.name if key else client)
    if wait_s:
        raise Refused("rate_limit", "more requests than this key may send", retry_after_s=wait_s)


def _require_admin(request: Request, gateway: Gateway) -> None:
    keys, secret, told = gateway.settings.keys, _secret(request), _told(request)
    key = keys.admin(secret) if secret else None
    if key is None and not keys.admins:
        raise Refused("forbidden", "nobody controls this gateway", hint="start it with --admin-key-file")
    if key is None and secret and (client := keys.client(secret)):
        told.key = client.name
        raise Refused("forbidden", "this key may ask and not control")
    if key is None:
        raise _unauthorized(secret)
    told.key = key.name


def _unauthorized(secret: str | None) -> Refused:
    wrong = "the key is not one that is known here" if secret else "the request has no key"
    return Refused("unauthorized", wrong, hint="send the header Authorization: Bearer KEY")

"""The paths of the service and what stands on its OpenAPI page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.requests import Request as HttpRequest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from openmplug import __version__
from openmplug.serving import answers, schemas
from openmplug.serving.bodies import ClientGone, Receive, read_body
from openmplug.serving.forms import FORM, JSON, parse
from openmplug.serving.gate import Gate, Visit
from openmplug.serving.logs import log
from openmplug.serving.metrics import CONTENT_TYPE
from openmplug.serving.questions import Question, check_words
from openmplug.serving.refusals import Refusal, internal
from openmplug.serving.service import Service

_SMALL = 32 * 1024  # a body that is parsed at once; larger ones in a thread
_SUMMARIES = {
    "caption": "Describe a picture or a video",
    "answer": "Answer a question about a picture or a video",
    "match": "Say how well texts fit a picture or a video",
    "ground": "Find what a phrase names in a picture",
    "embed": "Turn a picture, a video or texts into vectors for search",
    "search": "Search the service's index by text or by picture",
}
_SHAPES: Mapping[str, Callable[[list[Any]], Any]] = {
    "caption": lambda results: results[0],
    "answer": lambda results: results[0],
    "match": lambda results: {"matches": results},
    "ground": lambda results: results[0],
    "embed": lambda results: {"embeddings": results},
    "search": lambda results: {"hits": results[0]},
}
_ERRORS = {
    400: "The request is not formed as it must be, or a setting is out of its range.",
    401: "No API key, or a wrong one.",
    403: "Addresses are not allowed here.",
    404: "The model cannot do this, or there is no index.",
    408: "The body came too slowly.",
    413: "Beyond a limit: bytes, pixels, seconds, frames, texts, tokens.",
    415: "Neither JSON nor a form.",
    422: "A field is missing or wrong, or a file cannot be read.",
    429: "The queue is full; Retry-After says when to come back.",
    503: "The model is being loaded, or the service is shutting down.",
    504: "No answer in time.",
}


class Refused(Response):
    """A refusal as a response: it leaves through the request's ``Visit``, which knows whether the connection must be closed."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        await scope["visit"].refuse(self.refusal)


class Nobody(Response):
    """No response: the client is gone."""

    def __init__(self) -> None:
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing; the log has a status for it, nginx's."""
        scope["visit"].status = 499


def build_app(service: Service) -> Gate:
    """Return the ASGI application of a service."""
    app = FastAPI(title="openmplug", version=__version__, redoc_url=None, description="mPLUG over HTTP. Errors are JSON, one line each.")
    paths: dict[str, str] = {}
    for endpoint in schemas.REQUESTS:
        _add_endpoint(app, service, endpoint)
        paths[f"/v1/{endpoint}"] = endpoint
    _add_states(app, service)
    paths.update({"/healthz": "healthz", "/readyz": "readyz", "/metrics": "metrics", "/v1/model": "model"})
    paths.update({"/openapi.json": "openapi", "/docs": "docs"})

    async def refused(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return Refused(error)

    async def unknown(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return Refused(Refusal(404, "not_found", "there is nothing here; /docs shows every path"))
        if error.status_code == 405:
            headers = dict(error.headers or {})
            allowed = headers.get("Allow") or headers.get("allow") or "POST"
            return Refused(Refusal(405, "method_not_allowed", f"this path takes {allowed}", headers={"allow": allowed}))
        return Refused(Refusal(error.status_code, "invalid_request", str(error.detail)))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, unknown)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Gate(app, service, paths)


def _add_endpoint(app: FastAPI, service: Service, endpoint: str) -> None:
    kind, answer = schemas.REQUESTS[endpoint], answers.RESPONSES[endpoint]

    async def respond(request: HttpRequest) -> Response:
        visit: Visit = request.scope["visit"]
        try:
            results = await _ask(service, endpoint, visit)
        except Refusal as refusal:
            return Refused(refusal)
        except ClientGone:
            return Nobody()
        except Exception as error:
            log("error", 40, error, id=visit.id, endpoint=endpoint)
            return Refused(internal())
        return JSONResponse(_SHAPES[endpoint](results))

    app.add_api_route(
        f"/v1/{endpoint}",
        respond,
        methods=["POST"],
        name=endpoint,
        operation_id=endpoint,
        summary=_SUMMARIES[endpoint],
        description=(kind.__doc__ or "").strip(),
        response_model=answer,
        responses={status: {"model": answers.ErrorResponse, "description": text} for status, text in _ERRORS.items()},
        openapi_extra={"requestBody": {"required": True, "content": _contents(kind)}},
    )


async def _ask(service: Service, endpoint: str, visit: Visit) -> list[Any]:
    service.check(endpoint)
    kind, content_type = schemas.REQUESTS[endpoint], visit.headers.get("content-type", "")
    if visit.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise Refusal(
            415, "unsupported_media_type", "the body is compressed (Content-Encoding); send it as it is, pictures are small already"
        )
    with service.uploads.holding() as held:
        body = await read_body(visit.receive, visit.headers, service.limits, held)
        if len(body) > _SMALL:
            request = await service.in_background(parse, kind, content_type, body)
        else:
            request = parse(kind, content_type, body)
        question = Question.of(endpoint, request)
        del body, request  # the question gives the file away when it is decoded: nothing else may keep it
        check_words(question, service.limits)
        return await service.answer(question, held, _hung_up(visit.receive), visit.noted)


async def _hung_up(receive: Receive) -> NoReturn:
    """Wait until the client hangs up."""
    while True:
        if (await receive())["type"] == "http.disconnect":
            raise ClientGone


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=answers.StateResponse, summary="Whether the service runs", operation_id="healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "draining" if service.draining else "ok"})

    responses: dict[int | str, dict[str, Any]] = {503: {"model": answers.StateResponse, "description": "Not now."}}

    @app.get("/readyz", response_model=answers.StateResponse, responses=responses, summary="Whether it can answer", operation_id="readyz")
    async def readyz() -> Response:
        status = "ready" if service.ready else "draining" if service.draining else "loading"
        return JSONResponse({"status": status}, 200 if service.ready else 503)

    @app.get("/metrics", summary="Numbers for Prometheus", operation_id="metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    missing: dict[int | str, dict[str, Any]] = {503: {"model": answers.ErrorResponse, "description": "The model is being loaded."}}

    @app.get("/v1/model", response_model=answers.ModelResponse, responses=missing, summary="What is served", operation_id="model")
    async def model() -> Response:
        about = service.about
        if about is None:
            return Refused(Refusal(503, "not_ready", "the model is being loaded; try again in a moment", retry_after=2))
        served = [endpoint for endpoint in schemas.REQUESTS if endpoint not in about.refused]
        facts = {"version": __version__, "task": about.task, "endpoints": served, "refused": about.refused}
        machine = {"device": about.device, "precision": about.precision, "frames": about.frames}
        return JSONResponse({**facts, **machine, "limits": service.limits.model_dump()})


# ---------------------------------------------------------------------------------------------------------------- OpenAPI


def _contents(kind: type[schemas.Request]) -> dict[str, Any]:
    """Describe a request as JSON and as a form, whose files are files."""
    described = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    examples = described.pop("examples", [])
    form = {**described, "properties": {**described["properties"], **{name: _file(described, name) for name in kind.files}}}
    shown = {f"example {number}": {"value": example} for number, example in enumerate(examples, 1)}
    return {JSON: {"schema": described, "examples": shown}, FORM: {"schema": form}}


def _file(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": described["properties"][name].get("description", "")}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        schema.setdefault("components", {})["securitySchemes"] = schemes
        for path, operations in schema["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in operations.values():
                    operation["security"] = [{}, {"bearer": []}, {"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema

"""The endpoints of the HTTP server."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from datamodules.corpus.as_text import json_line
from pipeline.serving import invocations
from pipeline.serving.engine import Engine
from pipeline.serving.metrics import CONTENT_TYPE
from pipeline.serving.openai_api import Writing, chat, completion
from pipeline.serving.openai_formats import ChatRequest, CompletionRequest
from pipeline.serving.problems import RequestProblem, not_json, of_validation
from pipeline.serving.row_api import RowApi
from pipeline.serving.served import ServedModel
from pipeline.tasks.causal_lm import CausalLM

T = TypeVar("T")

_FIRST_ERROR_STATUS = 400
_WORDS = {
    404: "the models that are served have no such endpoint; GET /openapi.json lists all",
    405: "this endpoint has another method; GET /openapi.json lists all",
}


def make_app(engine: Engine) -> FastAPI:
    """Return an application for the models of `engine`, without FastAPI's pages, which need a CDN."""
    app = FastAPI(title="Prelude", docs_url=None, redoc_url=None)
    _handle_problems(app)
    _add_state(app, engine)
    rows = RowApi(engine)
    for endpoint in sorted({model.endpoint for model in engine.models.values() if model.endpoint}):
        _add_rows(app, engine, rows, endpoint)
    _add_writing(app, engine)
    if any(model.endpoint for model in engine.models.values()):
        invocations.add(app, engine, rows)
    return app


def endpoints(app: FastAPI) -> list[str]:
    """Return the method and path of each endpoint."""
    return [
        f"{method} {route.path}"
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]


def _handle_problems(app: FastAPI) -> None:
    """Give all error responses one format."""

    @app.exception_handler(RequestProblem)
    async def refuse(request: Request, problem: RequestProblem) -> Response:
        if problem.__cause__ is not None and problem.status >= 500:
            raise problem.__cause__
        return _refusal(problem)

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(request: Request, error: RequestValidationError) -> Response:
        return _refusal(not_json() if isinstance(error.body, bytes) else of_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        if error.status_code == _FIRST_ERROR_STATUS:
            return _refusal(RequestProblem(400, "the body is not valid JSON in UTF-8", field="body"))
        text = _WORDS.get(error.status_code, str(error.detail))
        return _refusal(RequestProblem(error.status_code, text, headers=error.headers))


def _refusal(problem: RequestProblem) -> Response:
    return _json(problem.body, status=problem.status, headers=problem.headers)


def _json(content: dict[str, Any], *, status: int = 200, headers: Any = None) -> Response:
    return Response(json_line(content), status, headers, media_type="application/json")


def _add_state(app: FastAPI, engine: Engine) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Return whether the worker runs; the server listens only after each model has answered once."""
        alive = engine.worker.is_alive
        return _json({"status": "ok" if alive else "failed"}, status=200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(engine.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> Response:
        """List the served models."""
        return _json({"object": "list", "data": [_description(model) for model in engine.models.values()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """Describe one model."""
        if name not in engine.models:
            raise RequestProblem(404, f"there is no model {name!r}", field="model")
        return _json(_description(engine.models[name]))


def _description(model: ServedModel) -> dict[str, Any]:
    example = None if model.endpoint is None else dict(model.task.example_row)
    return {
        "id": model.name,
        "object": "model",
        "created": model.loaded,
        "owned_by": "prelude",
        "task": str(model.bundle.config["choices"]["task"]),
        "endpoint": None if model.endpoint is None else f"/v1/{model.endpoint}",
        "example": example,
        "max_tokens": model.limit,
        "version": model.version,
        "bundle": model.digest,
        "lineage": model.lineage,
    }


def _add_rows(app: FastAPI, engine: Engine, rows: RowApi, endpoint: str) -> None:
    model = engine.find(None, lambda one: one.endpoint == endpoint)
    schema = {"content": {"application/json": {"schema": rows.formats(model).schema}}, "required": True}
    summary = (type(model.task).__doc__ or "").splitlines()[0]

    @app.post(f"/v1/{endpoint}", name=endpoint, summary=summary, openapi_extra={"requestBody": schema})
    async def answer(request: Request, body: Annotated[Any, Body()]) -> Response:
        used, content = await unless_gone(request, rows.answer(endpoint, body))
        return _json(content, headers=used.headers)


def _add_writing(app: FastAPI, engine: Engine) -> None:
    models = list(engine.models.values())

    async def complete(request: Request, body: CompletionRequest) -> Response:
        """Complete a text, in OpenAI's format."""
        return await _written(request, completion(engine, body))

    async def reply(request: Request, body: ChatRequest) -> Response:
        """Reply in a dialogue, in OpenAI's format."""
        return await _written(request, chat(engine, body))

    if any(isinstance(model.task, CausalLM) for model in models):
        app.post("/v1/completions")(complete)
    if any(model.dialogue is not None for model in models):
        app.post("/v1/chat/completions")(reply)


async def _written(request: Request, writing: Writing) -> Response:
    headers = writing.model.headers
    if not writing.request.stream:
        return _json(await unless_gone(request, writing.whole()), headers=headers)
    first = await anext(events := _events(writing))  # an error before the first event still sets the status
    return StreamingResponse(
        _rest(first, events), headers=headers | {"Cache-Control": "no-store"}, media_type="text/event-stream"
    )


async def _events(writing: Writing) -> AsyncGenerator[str, None]:
    has_begun = False
    async with aclosing(writing.events()) as events:
        try:
            async for chunk in events:
                has_begun = True
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except RequestProblem as problem:
            if not has_begun:
                raise
            yield f"data: {json.dumps(problem.body)}\n\n"
            if problem.__cause__ is not None:
                raise problem.__cause__ from None  # to log the traceback
            return
    yield "data: [DONE]\n\n"


async def _rest(first: str, events: AsyncGenerator[str, None]) -> AsyncGenerator[str]:
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await events.aclose()


async def unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Return the answer, or cancel its computation if the client disconnects first.

    Raises:
        RequestProblem: the client has disconnected.
    """
    task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestProblem(499, "the client disconnected")
    finally:
        gone.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""The routes of the page: its files, the descriptions of the models, and explanations."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from datamodules.corpus.as_text import json_line
from pipeline.demo.describing import describe
from pipeline.demo.explaining import explain
from pipeline.pages.render import SHARED
from pipeline.serving.app import unless_gone
from pipeline.serving.server import Server

PAGE = Path(__file__).parent / "page"

#: The page may only load from this server, runs only scripts from its own files, and may not be framed.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Page(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(server: Server) -> None:
    """Add the page at `/`, and the endpoints that it uses, to a server that has not started."""
    app, engine = server.api, server.engine

    @app.get("/demo/models")
    async def models() -> Response:
        """Describe the served models for the page."""
        descriptions = [describe(model) for model in engine.models.values()]
        return Response(json_line({"models": descriptions}), media_type="application/json")

    @app.post("/demo/explain")
    async def why(request: Request, body: Annotated[Any, Body()]) -> Response:
        """Explain the answer of a model to a request."""
        explanation = await unless_gone(request, explain(engine, body))
        return Response(json_line(explanation), media_type="application/json")

    @app.get("/style.css", include_in_schema=False)
    async def style() -> Response:
        """Return the style sheet of all pages."""
        return FileResponse(SHARED / "style.css", headers=HEADERS)

    files = [file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*") if file.is_file()]
    server.guard.without_token |= {"/", "/style.css", *(f"/{name}" for name in files)}
    app.mount("/", _Page(directory=PAGE, html=True))

"""POST /invocations, GET /ping and GET /version: the interface of `mlflow models serve`.

Source: MLflow's documentation, "Local model server", section "Accepted input formats".
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from datamodules.corpus.as_text import json_line
from pipeline.serving.engine import Engine
from pipeline.serving.problems import RequestProblem
from pipeline.serving.row_api import RowApi
from pipeline.tasks.finetuning import Row

Read = Callable[[Any, Sequence[str]], list[Row]]

_JSON, _CSV = "application/json", "text/csv"


def add(app: FastAPI, engine: Engine, rows: RowApi) -> None:
    """Add MLflow's endpoints; the model named in `params`, or else the first one with a task, answers."""

    @app.get("/ping")
    async def ping() -> Response:
        """Return whether the worker runs."""
        return Response("\n", 200 if engine.worker.is_alive else 503, media_type=_JSON)

    @app.get("/version")
    async def version() -> Response:
        """Return the version of MLflow."""
        from importlib.metadata import version

        return Response(version("mlflow"), media_type="text/plain")

    @app.post("/invocations")
    async def invoke(request: Request) -> Response:
        """Predict rows in MLflow's formats."""
        try:
            payload = _payload(await request.body(), request.headers.get("content-type", ""))
            name = _model_name(payload.pop("params", None))
            model = engine.find(name, lambda one: one.endpoint is not None)
            read = rows_of(payload, model.task.input_columns.required)
            used, content = await rows.answer(str(model.endpoint), {"model": model.name, "rows": read})
        except RequestProblem as problem:
            if problem.status >= 500:
                raise
            return _refusal(problem)
        answer = {"predictions": content["predictions"]}
        return Response(json_line(answer), headers=used.headers, media_type=_JSON)


def rows_of(payload: Mapping[str, Any], columns: Sequence[str]) -> list[Row]:
    """Return the rows of a payload; a value without a column name belongs to the only required column.

    Raises:
        RequestProblem: the payload has none of MLflow's formats.
    """
    if len(payload) != 1 or (key := next(iter(payload))) not in _FORMATS:
        names = ", ".join(_FORMATS)
        raise RequestProblem(400, f"body: expected an object with exactly one of {names}", field="body")
    try:
        return _FORMATS[key](payload[key], columns)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise RequestProblem(400, f"{key}: the value does not have MLflow's format", field=key) from None


def _records(value: Any, columns: Sequence[str]) -> list[Row]:
    if not isinstance(value, list):
        raise TypeError
    return [row if isinstance(row, dict) else _named(row, columns) for row in value]


def _named(value: Any, columns: Sequence[str]) -> Row:
    (column,) = columns
    return {column: value}


def _split(value: Any, columns: Sequence[str]) -> list[Row]:
    names = value.get("columns", columns)
    if value.keys() - {"columns", "data", "index"}:
        raise ValueError
    return [dict(zip(names, line, strict=True)) for line in value["data"]]


def _inputs(value: Any, columns: Sequence[str]) -> list[Row]:
    """Return rows given as objects, as texts, or as a list for each column."""
    if not isinstance(value, dict):
        return _records([value] if isinstance(value, str) else value, columns)
    lists = {name: one if isinstance(one, list) else [one] for name, one in value.items()}
    return [dict(zip(lists, line, strict=True)) for line in zip(*lists.values(), strict=True)]


_FORMATS: dict[str, Read] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _inputs,
    "inputs": _inputs,
}


def _payload(body: bytes, content_type: str) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (_JSON, _CSV):
        raise RequestProblem(415, f"Content-Type: expected {_JSON} or {_CSV}", field="Content-Type")
    try:
        text = body.decode()
        if kind == _CSV:
            return {"dataframe_records": list(csv.DictReader(io.StringIO(text)))}
        payload = json.loads(text)
    except (ValueError, RecursionError, csv.Error):
        raise RequestProblem(400, f"the body is not valid {kind} in UTF-8", field="body") from None
    if not isinstance(payload, dict):
        raise RequestProblem(400, "body: expected a JSON object", field="body")
    return payload


def _model_name(params: Any) -> str | None:
    """Return the model named in `params`, the only field in which MLflow's interface can name one."""
    if params is None:
        return None
    if not isinstance(params, dict) or params.keys() - {"model"}:
        raise RequestProblem(400, "params: expected no field other than `model`", field="params")
    return params.get("model")


def _refusal(problem: RequestProblem) -> Response:
    body = {"error_code": "BAD_REQUEST", "message": problem.message, "param": problem.field}
    return Response(json.dumps(body), problem.status, media_type=_JSON)

"""POST /v1/TASK: predictions for rows, whose columns are those that the task reads."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.functional_validators import AfterValidator
from pydantic_core import PydanticCustomError

from pipeline.serving.engine import Engine
from pipeline.serving.problems import RequestProblem, not_json, of_validation
from pipeline.serving.served import ServedModel
from pipeline.tasks.finetuning import Prediction, Row

T = TypeVar("T")


def is_readable(text: str) -> str:
    """Reject blank texts and unpaired surrogates."""
    if not text.strip():
        raise PydanticCustomError("blank", "the text is empty; expected some text")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PydanticCustomError("surrogate", "the text has an unpaired surrogate; expected valid Unicode")
    return text


def _check_texts(value: T, *, max_characters: int) -> T:
    """Reject a value in which any text is invalid or too long."""
    if isinstance(value, str):
        is_readable(value)
        if len(value) > max_characters:
            raise PydanticCustomError("long", f"the text is longer than {max_characters:,} characters")
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            _check_texts(one, max_characters=max_characters)
    return value


class RowFormats:
    """The formats of a request for a model's predictions: one row, or a list of rows.

    Args:
        model: the model, whose task defines the columns.
        max_rows: the maximum number of rows in a request.
        max_characters: the maximum length of a text.
    """

    def __init__(self, model: ServedModel, *, max_rows: int, max_characters: int) -> None:
        check = AfterValidator(partial(_check_texts, max_characters=max_characters))
        task, config = model.task, ConfigDict(extra="forbid", strict=True)
        read = task.input_columns
        types: dict[str, Any] = {
            name: Annotated[task.input_types.get(name, str), check]
            for name in (*read.required, *read.optional)
        }
        columns: dict[str, Any] = {
            name: (kind, ...) if name in read.required else (kind | None, None)
            for name, kind in types.items()
        }
        title = type(task).__name__
        row: type[BaseModel] = create_model(f"{title}Row", __config__=config, **columns)
        named: Any = (str | None, None)
        self.one = create_model(f"{title}One", __base__=row, model=named)
        rows: Any = (Annotated[list[row], Field(min_length=1, max_length=max_rows)], ...)
        self.many = create_model(f"{title}Many", __config__=config, rows=rows, model=named)

    def rows(self, body: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a request.

        Raises:
            RequestProblem: names the first field that is wrong, and why.
        """
        form: type[BaseModel] = self.many if "rows" in body else self.one
        try:
            read = form.model_validate(body).model_dump(exclude={"model"}, exclude_unset=True)
        except ValidationError as error:
            raise of_validation(error.errors(include_input=False, include_url=False)) from None
        rows: list[Row] = read["rows"] if "rows" in body else [read]
        return rows

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of both formats, for OpenAPI."""
        forms: Any = self.one | self.many
        schema: dict[str, Any] = TypeAdapter(forms).json_schema(ref_template="#/$defs/{model}")
        return schema


def as_answer(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction for a client, with the keys that `make predict-TASK` writes."""
    return {"text": prediction.text, "confidence": prediction.confidence, **prediction.details}


class RowApi:
    """Answers requests for predictions of any task.

    Args:
        engine: runs the models.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Weak references, so that a replaced model does not stay in memory.
        self._formats: WeakKeyDictionary[ServedModel, RowFormats] = WeakKeyDictionary()

    async def answer(self, endpoint: str, body: Any) -> tuple[ServedModel, dict[str, Any]]:
        """Return the model that answered, and its response.

        Raises:
            RequestProblem: names the first field that is wrong, and why.
        """
        model = self._model(endpoint, body)
        predictions = await self._engine.answer(model, self.formats(model).rows(body))
        return model, {"model": model.name, "predictions": [as_answer(one) for one in predictions]}

    def formats(self, model: ServedModel) -> RowFormats:
        """Return the request formats of a model, with the limits of the server."""
        if model not in self._formats:
            options = self._engine.options
            self._formats[model] = RowFormats(
                model, max_rows=options.max_rows, max_characters=options.max_text_characters
            )
        return self._formats[model]

    def _model(self, endpoint: str, body: Any) -> ServedModel:
        if isinstance(body, bytes):
            raise not_json()
        if not isinstance(body, dict):
            raise RequestProblem(400, "body: expected a JSON object", field="body")
        name = body.get("model")
        if name is not None and not isinstance(name, str):
            raise RequestProblem(400, "model: expected a name", field="model")
        return self._engine.find(name, lambda model: model.endpoint == endpoint)

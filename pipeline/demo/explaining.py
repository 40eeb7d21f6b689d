"""Explain a prediction of a served model; the server's worker computes it like any other request."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from datamodules.corpus import Columns
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline.explain.explanation import explain_row
from pipeline.runs.finetuned import as_dialogue
from pipeline.serving.engine import Engine
from pipeline.serving.openai_api import completion
from pipeline.serving.openai_formats import CompletionRequest
from pipeline.serving.problems import RequestProblem, of_validation
from pipeline.serving.row_api import RowFormats
from pipeline.serving.served import ServedModel
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row

#: The maximum number of gradient steps, which limits the waiting time even if the result is not complete.
MOST_STEPS = 256


@dataclass(frozen=True, kw_only=True)
class _Explaining:
    """A task whose predictions are explanations of another task's predictions, for the server's worker.

    Args:
        task: the task of the model.
        sampling: the sampling options of a pretrained model; None: the model was fine-tuned.
        input_columns: the columns that the task reads.
    """

    task: FinetuneTask | PretrainingTask
    sampling: SamplingOptions | None
    input_columns: Columns

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Return an explanation for each row, in `details`."""
        return [self._explained(model, tokenizer, row) for row in rows]

    def _explained(self, model: Model, tokenizer: Tokenizer, row: Row) -> Prediction:
        explanation = explain_row(
            self.task,
            model,
            tokenizer,
            row,
            sampling=self.sampling,
            most_steps=MOST_STEPS,
            attention=False,
        )
        return Prediction(text=explanation.answer or "", details=explanation.record())


async def explain(engine: Engine, body: Any) -> dict[str, Any]:
    """Explain the answer that this request gets at the model's own endpoint.

    Args:
        engine: runs the models.
        body: a request for one row, or for a completion, with the name of the model.

    Raises:
        RequestProblem: names the first field that is wrong, and why.
    """
    if not isinstance(body, dict):
        raise RequestProblem(400, "body: expected a JSON object", field="body")
    model = engine.models.get(str(body.get("model")))
    if model is None:
        raise RequestProblem(400, "model: expected the name of a served model", field="model")
    if "prompt" not in body:
        model = replace(model, bundle=as_dialogue(model.bundle))
    is_pretrained = isinstance(model.task, CausalLM)
    row, explainer = _completion(engine, body) if is_pretrained else _row(engine, model, body)
    (prediction,) = await engine.answer(explainer, [row])
    return dict(prediction.details)


def _row(engine: Engine, model: ServedModel, body: dict[str, Any]) -> tuple[Row, ServedModel]:
    options = engine.options
    formats = RowFormats(model, max_rows=1, max_characters=options.max_text_characters)
    (row,) = formats.rows(body)
    return row, _explainer(model, None, model.task.input_columns)


def _completion(engine: Engine, body: dict[str, Any]) -> tuple[Row, ServedModel]:
    try:
        request = CompletionRequest.model_validate(body)
    except ValidationError as error:
        raise of_validation(error.errors(include_input=False, include_url=False)) from None
    writing = completion(engine, request)
    (choice,) = writing.choices[:1]
    return {"text": request.prompts[0]}, _explainer(writing.model, choice.options, Columns(("text",)))


def _explainer(model: ServedModel, sampling: SamplingOptions | None, columns: Columns) -> ServedModel:
    """Return a model with the same weights whose predictions are explanations."""
    task = _Explaining(task=model.task, sampling=sampling, input_columns=columns)
    return replace(model, bundle=replace(model.bundle, task=task))

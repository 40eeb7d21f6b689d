"""Why a model answers a row so, asked of the server's one worker like every other answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from datamodules.corpus import Columns
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline.explain.explanation import explain_row
from pipeline.serving.engine import Engine
from pipeline.serving.openai_api import completion
from pipeline.serving.openai_formats import CompletionRequest
from pipeline.serving.problems import RequestProblem, of_validation
from pipeline.serving.row_api import RowFormats
from pipeline.serving.served import ServedModel
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row

#: Points at which gradients are taken at most: nobody waits longer for an explanation that is not complete.
MOST_STEPS = 256


@dataclass(frozen=True, kw_only=True)
class _Explaining:
    """A task whose predictions are explanations of the task's own; the worker asks it like any other.

    Args:
        task: of the model.
        sampling: how a pretrained model writes; None: the model was fine-tuned.
        input_columns: the columns that the task reads.
    """

    task: FinetuneTask | PretrainingTask
    sampling: SamplingOptions | None
    input_columns: Columns

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """An explanation for each row, in `details`."""
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
    """Why a model gives the answer that this request gets at its own address.

    Args:
        engine: which asks the models.
        body: a request for one row, or for a completion, with the name of the model.

    Raises:
        RequestProblem: the first field that is wrong, and why.
    """
    if not isinstance(body, dict):
        raise RequestProblem(400, "body: expected a JSON object", field="body")
    model = engine.models.get(str(body.get("model")))
    if model is None:
        raise RequestProblem(400, "model: expected the name of a model that is served", field="model")
    row, asked = _completion(engine, body) if isinstance(model.task, CausalLM) else _row(engine, model, body)
    (prediction,) = await engine.answer(asked, [row])
    return dict(prediction.details)


def _row(engine: Engine, model: ServedModel, body: dict[str, Any]) -> tuple[Row, ServedModel]:
    options = engine.options
    forms = RowFormats(model, max_rows=1, max_characters=options.max_text_characters)
    (row,) = forms.rows(body)
    return row, _explained_by(model, None, model.task.input_columns)


def _completion(engine: Engine, body: dict[str, Any]) -> tuple[Row, ServedModel]:
    try:
        request = CompletionRequest.model_validate(body)
    except ValidationError as error:
        raise of_validation(error.errors(include_input=False, include_url=False)) from None
    writing = completion(engine, request)
    (choice,) = writing.choices[:1]
    return {"text": request.prompts[0]}, _explained_by(writing.model, choice.options, Columns(("text",)))


def _explained_by(model: ServedModel, sampling: SamplingOptions | None, columns: Columns) -> ServedModel:
    """The same model, with weights that are the same tensors, and explanations for answers."""
    task = _Explaining(task=model.task, sampling=sampling, input_columns=columns)
    return replace(model, bundle=replace(model.bundle, task=task))

"""A bundle as an MLflow pyfunc ("model from code"): MLflow runs this file when it loads a registered version.

The input is a table with the columns of the task, or with `prompt` for a pretrained model. Each prediction is
the one that `make predict-TASK` writes, or the generated text.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from modules.generation import SamplingOptions
from pipeline.runs.bundle import load_bundle
from pipeline.tasks.finetuning import FinetuneTask

BATCH_SIZE = 16


class BundleModel(PythonModel):
    """A model that loads the bundle next to this file, and predicts rows with it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle, and check it against its hashes."""
        self.bundle = load_bundle(Path(context.artifacts["bundle"]).resolve())

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the predictions for the rows of a table, as plain values."""
        rows = [
            {name: value for name, value in row.items() if value is not None and value == value}  # noqa: PLR0124
            for row in model_input.to_dict(orient="records")
        ]
        bundle, task = self.bundle, self.bundle.task
        if not isinstance(task, FinetuneTask):
            samples = task.samples(
                bundle.model,
                bundle.tokenizer,
                prompts=[row["prompt"] for row in rows],
                texts=[],
                options=SamplingOptions(**(params or {})),
            )
            return [{"text": sample.output} for sample in samples]
        answers = task.predict(bundle.model, bundle.tokenizer, rows, batch_size=BATCH_SIZE)
        return [{"text": one.text, "confidence": one.confidence, **one.details} for one in answers]


set_model(BundleModel())

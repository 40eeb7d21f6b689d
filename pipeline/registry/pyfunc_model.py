"""A bundle as MLflow's pyfunc, "model from code": MLflow runs this file where a registered version is loaded.

Rows come in as a table with the columns of the task, or with `prompt` for a model that was only pretrained;
each answer is what `make predict-TASK` writes, or the text that was written.
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
    """Loads the bundle that lies beside this file, and answers rows with it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle, checked against its hashes."""
        self.bundle = load_bundle(Path(context.artifacts["bundle"]).resolve())

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """The answers to the rows of a table, as plain values."""
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

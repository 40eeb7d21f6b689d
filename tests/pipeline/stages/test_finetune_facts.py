"""What the summary of a fine-tuning says of its length, and of simpler models on the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.rows import Evaluation, HeldOut
from pipeline.machine.options import TrainerOptions
from pipeline.stages.finetune.facts import (
    baseline_facts,
    baseline_metrics,
    compare_baselines,
    length_facts,
)
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.finetuning import Prediction, Row
from pipeline.training.callbacks.trend import LossTrend

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
OPTIONS = TrainerOptions(accelerator="cpu", devices=1, batch_size=4, max_steps=100)


def evaluation(right: int) -> Evaluation:
    """Answers to the rows, the first `right` of which are right."""
    task = TextClassification().fit(ROWS)
    texts = [row["label"] if i < right else "ab"[(i + 1) % 2] for i, row in enumerate(ROWS)]
    on = HeldOut(corpus="letters", split="test")
    predictions = [Prediction(text=text) for text in texts]
    return Evaluation(task=task, on=on, rows=ROWS, predictions=predictions, scores={})


def trend(*losses: float) -> LossTrend:
    made = LossTrend()
    made.load_state_dict({"losses": {10 * number: loss for number, loss in enumerate(losses, 1)}})
    return made


def test_a_model_is_compared_row_by_row_with_simpler_ones() -> None:
    found = compare_baselines(evaluation(right=40), ROWS)
    metrics = baseline_metrics(found, "accuracy")
    assert metrics["baseline_majority_accuracy"] == 0.5
    assert metrics["baseline_majority_difference"] == 0.5
    assert metrics["baseline_majority_difference_p_value"] < 0.001
    assert baseline_facts(found, "accuracy")["majority label"] == "0.5000 accuracy"
    name = TextClassification.baseline_titles["linear"]
    for right, says in (
        (40, "this model is 0.5000 better (95 %: +0.3"),
        (20, "no significant difference (+0.0000;"),
    ):
        half = compare_baselines(replace(evaluation(right=right), task=Half().fit(ROWS)), ROWS)
        assert baseline_facts(half, "accuracy")[name].startswith(f"0.5000 accuracy; {says}")


@dataclass(frozen=True, kw_only=True)
class Half(TextClassification):
    """A linear model is right about the first half of the rows."""

    def baselines(
        self, train: Sequence[Row], rows: Sequence[Row]
    ) -> dict[str, Callable[[], npt.NDArray[np.float64]]]:
        return {"linear": lambda: (np.arange(len(rows)) < len(rows) / 2).astype(np.float64)}


@dataclass(frozen=True, kw_only=True)
class Failing(TextClassification):
    """Its linear baseline cannot be made."""

    def baselines(
        self, train: Sequence[Row], rows: Sequence[Row]
    ) -> dict[str, Callable[[], npt.NDArray[np.float64]]]:
        def fails() -> Any:
            raise ValueError("empty vocabulary")

        return {"linear": fails, "majority": lambda: np.zeros(len(rows))}


def test_a_baseline_that_cannot_be_made_is_told_of_and_harms_nothing(capfd: Any) -> None:
    whole = evaluation(right=40)
    found = compare_baselines(replace(whole, task=Failing().fit(ROWS)), ROWS)
    assert found.keys() == {"majority"}
    assert "failed (ValueError: empty vocabulary)" in " ".join(capfd.readouterr().err.split())


def test_epochs_and_whether_the_loss_still_fell_are_told() -> None:
    falling, risen = length_facts(OPTIONS, trend(3, 2, 1), 40), length_facts(OPTIONS, trend(3, 1, 2), 40)
    assert falling["epochs"] == "3.0 of 40 examples (30 of 100 steps)"
    assert "still falling; more steps may help: trainer.max_steps=200" in falling.values()
    assert "no longer falling: lowest at step 20" in risen.values()
    assert length_facts(OPTIONS, LossTrend(), 40) == {}

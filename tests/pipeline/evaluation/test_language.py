"""A language model's numbers, row by row."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datamodules.cache import TokenRows
from datamodules.collate import RowBatch
from pipeline.compare.facts import read_measurement
from pipeline.evaluation import language
from pipeline.evaluation.language import LanguageEvaluation, evaluate_language_model
from pipeline.evaluation.rows import HeldOut
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import VALIDATION_SEED
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.tasks.scoring import expanded_confidence
from tests.pipeline.tasks.test_tasks import TASKS, TOKENIZER, model_for, rows_for

Table = npt.NDArray[np.uint16]
OPTIONS = TrainerOptions(batch_size=3, precision="fp32", accelerator="cpu")


class Rows(TokenRows):
    """Rows in memory; the last one is empty."""

    def __init__(self, task: PretrainingTask) -> None:
        made = rows_for(task, n_rows=8)
        self.ids, self.segments = np.asarray(made.ids, np.uint16), np.asarray(made.segment_ids, np.uint16)
        self.segments[-1] = 0
        self.row_tokens = self.ids.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def chunks(self) -> Iterator[tuple[Table, Table]]:
        yield self.ids[:5], self.segments[:5]
        yield self.ids[5:], self.segments[5:]

    def take(self, indices: npt.ArrayLike) -> tuple[Table, Table]:
        places = np.asarray(indices)
        return self.ids[places], self.segments[places]


ON = HeldOut(corpus="poem", split="validation", chose_weights=True)


def evaluated(name: str, task: PretrainingTask | None = None) -> LanguageEvaluation:
    task = task or TASKS[name]
    return evaluate_language_model(task, model_for(name), TOKENIZER, Rows(task), OPTIONS, on=ON)


@pytest.mark.parametrize("name", TASKS)
def test_each_row_costs_what_it_costs_alone_and_one_without_labels_is_left_out(name: str) -> None:
    task, model = TASKS[name], model_for(name)
    collate, objective = task.collator(TOKENIZER, seed=VALIDATION_SEED), task.objective(TOKENIZER)
    alone = []
    for i in range(7):
        with torch.no_grad():
            nats, n_tokens = objective.loss(model, collate(RowBatch(*Rows(task).take([i]), np.array([i]))))
        alone.append((nats.item(), n_tokens))
    found = evaluated(name)
    np.testing.assert_allclose(found.losses, alone, rtol=1e-5)
    nats, n_tokens = np.sum(alone, axis=0)
    assert found.values["loss"] == pytest.approx(nats / n_tokens)
    assert found.scores["perplexity"].value == pytest.approx(np.exp(nats / n_tokens), rel=1e-5)


def test_long_rows_are_read_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Recorded(Rows):
        def take(self, indices: npt.ArrayLike) -> tuple[Table, Table]:
            sizes.append(len(np.asarray(indices)))
            return super().take(indices)

    task = TASKS["causal_lm"]
    rows = Recorded(task)
    monkeypatch.setattr(language, "BATCH_TOKENS", 2 * rows.row_tokens + 1)
    found = evaluate_language_model(task, model_for("causal_lm"), TOKENIZER, rows, OPTIONS, on=ON)
    assert sizes == [2, 2, 2, 2]
    np.testing.assert_allclose(found.losses, evaluated("causal_lm").losses, rtol=1e-5)


def test_the_interval_of_the_loss_is_that_of_rows_drawn_again() -> None:
    found = evaluated("masked_lm")
    draws = np.random.default_rng(1).integers(7, size=(20_000, 7))
    level = expanded_confidence(7)
    nats, n_tokens = found.losses[draws].sum(axis=1).T
    low, high = np.percentile(nats / n_tokens, [50 * (1 - level), 50 * (1 + level)])
    loss, perplexity = found.scores["loss"], found.scores["perplexity"]
    assert loss.low == pytest.approx(low, abs=0.1 * (high - low))
    assert loss.high == pytest.approx(high, abs=0.1 * (high - low))
    assert perplexity.low == pytest.approx(np.exp(loss.low))
    assert found.metrics["val/loss_low"] == loss.low


def test_what_is_kept_pairs_with_a_run_that_was_asked_the_same(tmp_path: Path) -> None:
    found = evaluated("masked_lm")
    found.save(tmp_path)
    measured = read_measurement(tmp_path)
    assert measured is not None
    assert (measured.task, measured.corpus, measured.split, measured.prefix) == (
        "MaskedLM", "poem", "validation", "val",
    )  # fmt: skip
    assert measured.metrics == found.scores
    assert measured.row_metric == "nats_per_token"
    assert len(set(measured.rows)) == len(measured.row_scores) == 7
    assert (measured.row_scores < 0).all()
    assert evaluated("masked_lm").rows == measured.rows
    other = replace(MaskedLM(), rate=0.15)
    assert not set(evaluated("masked_lm", other).rows) & set(measured.rows)

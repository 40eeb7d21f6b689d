"""Evaluate a language model on held-out rows: metrics over all rows, and the score of each row."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import lightning as L
import numpy as np
import numpy.typing as npt
import torch

from datamodules.cache import TokenRows
from datamodules.collate import Batch, RowBatch
from datamodules.sampling import sequential_batches
from datamodules.tokenizer import Tokenizer
from modules.metrics import RowLoss
from modules.model import Model
from pipeline.evaluation.rows import EVALUATION, HeldOut, recorded
from pipeline.machine.devices import choose_precision, uses_gpu
from pipeline.machine.options import TrainerOptions
from pipeline.output import write_whole
from pipeline.prepare import VALIDATION_SEED
from pipeline.progress import Progress
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import Score
from pipeline.tasks.scoring import column_sums, statistic_score
from pipeline.training.trainer import PRECISIONS, quieten_lightning

#: The score of a row: the mean log-likelihood of its labelled tokens. Higher is better, as in every task.
ROW_METRIC = "nats_per_token"

#: The tokens of a batch, unless one row has more: rows are as long as the context of the model.
BATCH_TOKENS = 8_192


@dataclass(frozen=True, kw_only=True)
class LanguageEvaluation:
    """The metrics of a language model on held-out rows.

    Args:
        task: the pretraining task of the model.
        on: the rows that were measured.
        values: metrics over all rows together, by name without a prefix.
        rows: a digest of each row together with the task's options.
        losses: the summed loss in nats and the number of labelled tokens of each row (N, 2).
    """

    task: PretrainingTask
    on: HeldOut
    values: Mapping[str, float]
    rows: list[str]
    losses: npt.NDArray[np.float64]

    @cached_property
    def scores(self) -> dict[str, Score]:
        """The metrics; loss and perplexity have confidence intervals over rows."""
        scores = {name: Score(value=value) for name, value in self.values.items()}
        if self.rows:
            loss = statistic_score(self._mean_losses, len(self.rows))
            scores["loss"] = replace(loss, value=scores["loss"].value)
            with np.errstate(over="ignore"):  # the perplexity of a bad model may be infinite
                low, high = (None if end is None else float(np.exp(end)) for end in (loss.low, loss.high))
            scores["perplexity"] = replace(scores["perplexity"], low=low, high=high, n_rows=loss.n_rows)
        return scores

    def _mean_losses(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the mean loss per token in each resample of the rows (R, N)."""
        nats, n_tokens = column_sums(rows, self.losses).T
        means: npt.NDArray[np.float64] = nats / n_tokens
        return means

    @property
    def metrics(self) -> dict[str, float]:
        """The values and the bounds of intervals, as they are recorded."""
        return recorded(self.scores, self.on.prefix)

    @property
    def cautions(self) -> list[str]:
        """Warnings for the readers of the metrics."""
        return []

    def save(self, folder: Path) -> None:
        """Save the score of each row in a run's folder, so that `compare` can pair them; no text is saved."""
        nats, n_tokens = self.losses.T
        record = {
            "task": type(self.task).__name__,
            **asdict(self.on),
            "prefix": self.on.prefix,
            "metrics": {name: asdict(score) for name, score in self.scores.items()},
            "row_metric": ROW_METRIC,
            "rows": self.rows,
            "row_scores": (-nats / n_tokens).tolist(),
        }
        write_whole(folder / EVALUATION, json.dumps(record))


def evaluate_language_model(
    task: PretrainingTask,
    model: Model,
    tokenizer: Tokenizer,
    rows: TokenRows,
    options: TrainerOptions,
    *,
    on: HeldOut,
) -> LanguageEvaluation:
    """Measure every row once, on one device, with the same corruption as in every validation."""
    quieten_lightning()
    fabric = L.Fabric(
        accelerator="gpu" if uses_gpu(options) else "cpu",
        devices=1,
        precision=PRECISIONS[choose_precision(options)],  # type: ignore[arg-type]
    )
    model = model.to(fabric.device).eval()
    objective = task.objective(tokenizer)
    metrics = objective.metrics()
    metrics.add_metrics({"rows": RowLoss()})
    metrics.to(fabric.device)
    for metric in metrics.values():
        # Other processes of the run do not take part, and may have exited.
        metric.distributed_available_fn = lambda: False
    batch_size = max(1, min(options.batch_size, BATCH_TOKENS // rows.row_tokens))
    with (
        torch.inference_mode(),
        fabric.autocast(),
        Progress("evaluate", total=len(rows), unit="rows") as progress,
    ):
        for n_rows, batch in _batches(task, tokenizer, rows, batch_size):
            objective.update(metrics, model, fabric.to_device(batch))
            progress.advance(n_rows)
    values = metrics.compute()
    losses = values.pop("rows").double().cpu().numpy()
    labelled = losses[:, 1] > 0
    digests = np.array(_digests(task, rows))
    return LanguageEvaluation(
        task=task,
        on=on,
        values={name: float(value) for name, value in values.items()},
        rows=digests[labelled].tolist(),
        losses=losses[labelled],
    )


def _batches(
    task: PretrainingTask, tokenizer: Tokenizer, rows: TokenRows, batch_size: int
) -> Iterator[tuple[int, Batch]]:
    """Yield batches in order, each with its number of rows."""
    collate = task.collator(tokenizer, seed=VALIDATION_SEED)
    for keys in sequential_batches(len(rows), batch_size):
        yield len(keys), collate(RowBatch(*rows.take(keys), keys))


def _digests(task: PretrainingTask, rows: TokenRows) -> list[str]:
    """Return a digest of each row's tokens and the task's options, such as the share of masked tokens."""
    options = json.dumps(asdict(task), sort_keys=True).encode()  # type: ignore[call-overload]
    return [
        hashlib.sha256(options + ids.astype(np.int64).tobytes() + segments.tobytes()).hexdigest()[:32]
        for some in rows.chunks()
        for ids, segments in zip(*some, strict=True)
    ]

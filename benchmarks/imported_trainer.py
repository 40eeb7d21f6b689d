"""Compare fine-tuning of imported weights with the Trainer of `transformers` on the same rows."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.turns import median_ratio, take_turns
from datamodules.source import Source
from modules.model import Model
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.tasks import finetuning_task
from pipeline.machine.devices import choose_precision
from pipeline.machine.options import TrainerOptions
from pipeline.registry.versions import find_trained
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.stages.finetune.compose import labelled_rows
from pipeline.tasks.finetuning import Feature, FinetuneTask, SplitRows
from pipeline.tasks.qa.task import ExtractiveQA

Rows = list[dict[str, Any]]


def classify(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the accuracy on the test rows, and the time."""
    train, test = _encoded(arguments)
    theirs = partial(_their_classifier, arguments, train=train, test=test)
    yield from _beside_trainer(arguments, "classify", ("accuracy",), theirs)


def qa(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure F1 and exact match on the test rows, and the time; both train on the same windows."""
    bundle = load_bundle(bundle_folder(arguments))
    task, rows = task_and_rows("qa", arguments.data, "task.mark_question_words=false")
    assert isinstance(task, ExtractiveQA)
    features = [
        each for row in rows["train"] for each in task.features(row, bundle.tokenizer, bundle.model.backbone)
    ]
    train = [as_their_window(each) for each in features]
    theirs = partial(_their_reader, arguments, task=task, bundle=bundle, train=train, test=rows["test"])
    for found in _beside_trainer(arguments, "qa", ("f1", "exact_match"), theirs):
        yield {**found, "windows": len(train), "window_tokens": bundle.model.backbone.max_seq_len}


def bundle_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the bundle."""
    return find_trained(arguments.bundle, Path(arguments.runs_dir))


def task_and_rows(name: str, data: str, *options: str) -> tuple[FinetuneTask, dict[str, SplitRows]]:
    """Return a task that was fitted to its training rows, and the rows of each split."""
    config = compose("finetune", [f"task={name}", f"data={data}", *options])
    task = finetuning_task(config)
    rows = labelled_rows(construct(config.data, Source).load(task.columns))
    rows.setdefault("test", rows["validation"])
    return task.fit(rows["train"]), rows


def as_their_window(feature: Feature) -> dict[str, Any]:
    """Convert a window for BERT: the passage has type 1, and the first token stands for no answer."""
    ids, start = feature["input_ids"].tolist(), int(feature["passage_start"][0])
    first, last = feature["answer_span"].tolist()
    if first == len(ids) - 1:
        first = last = 0
    types = [0] * start + [1] * (len(ids) - start)
    return {"input_ids": ids, "token_type_ids": types, "start_positions": first, "end_positions": last}


class Reader(nn.Module):
    """A model of `transformers` that takes our batches, so that its answers are scored like ours."""

    def __init__(self, theirs: Any, model: Model) -> None:
        super().__init__()
        self.theirs, self.backbone = theirs, model.backbone

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the scores (B, T, 2) of each token as the first and last token of an answer."""
        ids, inside = batch["input_ids"], batch["passage_mask"].bool()
        real = batch.get("attention_mask", torch.ones_like(ids))
        after = (inside.cumsum(dim=1) > 0) & real.bool()
        found = self.theirs(input_ids=ids, attention_mask=real, token_type_ids=after.long())
        logits = torch.stack((found.start_logits, found.end_logits), dim=2).float()
        return logits.masked_fill(~inside.unsqueeze(-1), torch.finfo(torch.float32).min)


def _beside_trainer(
    arguments: argparse.Namespace,
    task: str,
    metrics: tuple[str, ...],
    theirs: Callable[..., dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """Yield the results after each training run; precision and learning rates are the same."""
    precision = choose_precision(TrainerOptions(precision=arguments.precision, accelerator="cpu"))
    turns: dict[str, Callable[[], dict[str, float]]] = {
        "ours": partial(_ours, arguments, task, metrics, precision),
        "trainer": partial(theirs, precision=precision),
    }
    turns = {name: turn for name, turn in turns.items() if arguments.only in (None, name)}
    for found in take_turns(turns, arguments.rounds):
        yield {
            "data": arguments.data,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "precision": precision,
            "optimizer": f"AdamW, {arguments.lr}, no weight decay, linear to 0, gradients clipped at 1",
            "padding": {
                "ours": "to the longest row of a batch, rows of similar length together",
                "trainer": f"to the longest row of a batch, {arguments.sampling}",
            },
            "fit_s": "training alone, including one validation on 32 rows and two checkpoints (ours only)",
            "speed_ratio": median_ratio(found, "ours", "trainer", "fit_s"),
            **found,
        }


def _ours(
    arguments: argparse.Namespace, task: str, metrics: tuple[str, ...], precision: str
) -> dict[str, float]:
    import lightning as L

    from pipeline.stages.finetune.stage import finetune

    seconds: list[float] = []
    fit = L.Trainer.fit

    def timed(*given: Any, **named: Any) -> None:
        began = time.perf_counter()
        fit(*given, **named)
        seconds.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as place:
        config = compose(
            "finetune",
            [
                *(f"task={task}", f"data={arguments.data}", "tracking=off", f"runs_dir={place}"),
                f"init_from={bundle_folder(arguments).absolute()}",
                *(f"trainer.max_steps={arguments.steps}", f"trainer.batch_size={arguments.batch_size}"),
                *("trainer.accelerator=cpu", f"trainer.precision={precision}"),
                *(f"trainer.val_every_steps={arguments.steps}", "trainer.val_rows=32"),
                *("trainer.score_rows=32", *(["task.linear_baseline=false"] if task == "classify" else [])),
                *("schedule=linear", "schedule.warmup_steps=0"),
                *(
                    f"optimizer.lr={arguments.lr}",
                    "optimizer.weight_decay=0",
                ),  # all else as for imported weights
            ],
        )
        L.Trainer.fit = timed  # type: ignore[method-assign]
        try:
            found = finetune(config).metrics
        finally:
            L.Trainer.fit = fit  # type: ignore[method-assign]
    return {**{name: found[f"test/{name}"] for name in metrics}, "fit_s": round(seconds[0], 2)}


def _encoded(arguments: argparse.Namespace) -> tuple[Rows, Rows]:
    """Return the training and test rows, encoded by `transformers`, with labels as numbers."""
    import transformers

    _, rows = task_and_rows("classify", arguments.data)
    words = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    longest = transformers.AutoConfig.from_pretrained(arguments.folder).max_position_embeddings
    labels = sorted({str(row["label"]) for row in rows["train"]})
    made = []
    for split in ("train", "test"):
        ids = words([row["text"] for row in rows[split]], truncation=True, max_length=longest)["input_ids"]
        made.append(
            [
                {"input_ids": each, "label": labels.index(str(row["label"]))}
                for each, row in zip(ids, rows[split], strict=True)
            ]
        )
    return made[0], made[1]


def _their_classifier(
    arguments: argparse.Namespace, *, precision: str, train: Rows, test: Rows
) -> dict[str, float]:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.folder, num_labels=1 + max(row["label"] for row in train)
    )
    trainer, seconds = _trained(arguments, model, precision, train)
    made = trainer.predict(test)
    right = np.asarray(made.predictions).argmax(-1) == made.label_ids
    return {"accuracy": float(right.mean()), "fit_s": round(seconds, 2)}


def _their_reader(
    arguments: argparse.Namespace,
    *,
    precision: str,
    task: ExtractiveQA,
    bundle: Bundle,
    train: Rows,
    test: SplitRows,
) -> dict[str, float]:
    import transformers

    model = transformers.AutoModelForQuestionAnswering.from_pretrained(arguments.folder)
    _, seconds = _trained(arguments, model, precision, train)
    reader: Any = Reader(model, bundle.model)
    predictions = task.predict(reader, bundle.tokenizer, test, batch_size=4 * arguments.batch_size)
    scores = task.score(predictions, test)
    return {**{name: scores[name].value for name in ("f1", "exact_match")}, "fit_s": round(seconds, 2)}


def _trained(arguments: argparse.Namespace, model: Any, precision: str, train: Rows) -> tuple[Any, float]:
    """Train with their Trainer; return it, and the seconds of training."""
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    with tempfile.TemporaryDirectory() as place:
        options = transformers.TrainingArguments(
            output_dir=place, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=64, learning_rate=arguments.lr, report_to=[], save_strategy="no",
            use_cpu=True, bf16=precision == "bf16", train_sampling_strategy=arguments.sampling,
            logging_strategy="no",
        )  # fmt: skip
        trainer: Any = transformers.Trainer(model, options, train_dataset=train, processing_class=words)
        began = time.perf_counter()
        trainer.train()
    return trainer, time.perf_counter() - began

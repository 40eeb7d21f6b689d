"""Find the bundle, the rows and the task of a fine-tuning run, and complete its configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.corpus import Corpus, numbers_of
from datamodules.corpus.held_out import with_repeated
from datamodules.source import Source
from modules.errors import ArgumentError
from modules.meta import on_meta_device
from modules.peft import LoRA
from modules.transformer import Transformer
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.model import head_node
from pipeline.config.plain import Config, to_plain
from pipeline.config.tasks import finetuning_task
from pipeline.errors import ConfigError, DataError
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import Bundle
from pipeline.runs.inputs import inputs_of
from pipeline.runs.rates import is_imported, with_fitting_rates
from pipeline.runs.start import (
    check_kept_head,
    check_new_backbone,
    check_vocabularies,
    completed,
    describe_start,
    find_start,
    load_start,
    new_model,
    with_architecture,
)
from pipeline.tasks.finetuning import FinetuneTask, Row, SplitRows
from pipeline.training.budget import EPOCHS, IMPORTED_EPOCHS, describe_budget, is_open, with_budget
from pipeline.training.callbacks.freezing import Freezing
from pipeline.training.label import label_of
from pipeline.training.states import Composed


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A task fitted to its training rows, and the checked rows of each split."""

    task: FinetuneTask
    corpus: Corpus
    rows: Mapping[str, Sequence[Row]]


def compose(config: Config) -> tuple[Composed, Labelled]:
    """Find the bundle, read and check the rows, and complete the configuration.

    Raises:
        ConfigError: if the options do not fit this machine, the task or the bundle.
        BundleError: if there is no bundle to start from, or it does not fit the task.
        DataError: if the rows are invalid.
    """
    options = construct(config.trainer, TrainerOptions)
    check_device(options)
    task = finetuning_task(config)
    start = _find_start(config, task)
    _check_adapter(config, start)
    _check_unfreezing(config, options)
    config = with_fitting_rates(config, None if start is None else start.provenance)
    inputs = inputs_of(config, used=None if start is None else start.folder)
    labelled = read_labelled(config, task)
    model = _model_node(config, labelled.task, start)
    complete = completed(config, start, model=model, trainer=_budget(options, labelled, start))
    return Composed(config=complete, label=label_of(complete), inputs=inputs, bundle=start), labelled


def read_labelled(config: Config, task: FinetuneTask) -> Labelled:
    """Read and check all rows, before there is a run folder that an error would leave behind.

    Raises:
        DataError: if the rows are invalid.
    """
    corpus = construct(config.data, Source).load(task.columns)
    corpus = with_repeated(corpus, (*task.inputs, *task.optional))
    rows = labelled_rows(corpus)
    task = task.fit(rows["train"])
    for split, some in rows.items():
        task.check(some, split)
    report.say_corpus(corpus, {})
    return Labelled(task=task, corpus=corpus, rows=rows)


def labelled_rows(corpus: Corpus) -> dict[str, SplitRows]:
    """Return the rows of each split in memory: train, validation and, if there is one, test.

    Raises:
        DataError: if the corpus is a stream.
    """
    if corpus.n_train_rows is None:
        raise DataError(f"{corpus.name} is streamed", "labelled rows in memory", "set data.streaming=false")
    splits = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    return {split: SplitRows(rows, numbers_of(rows)) for split, rows in splits.items() if rows is not None}


def _find_start(config: Config, task: FinetuneTask) -> Bundle | None:
    """Return the bundle to start from, in the architecture that the task needs; None: train from scratch."""
    folder = find_start(config.init_from, Path(config.runs_dir), task.backbones)
    start = None if folder is None else load_start(config, folder)
    report.say("Start", describe_start(start, config.init_from))
    if start is None:
        check_new_backbone(config, task)
        return None
    check_vocabularies(task, start)
    check_kept_head(task, start)
    return with_architecture(start, task.architecture(type(start.model.backbone)), task.backbone_options)


def _check_adapter(config: Config, start: Bundle | None) -> None:
    """Reject an adapter without pretrained weights, or together with `freezing`.

    Raises:
        ConfigError: if the adapter cannot be used.
    """
    peft = to_plain(config.peft)
    if not peft:
        return
    word = f"peft={config.choices.peft}"
    if start is None:
        raise ConfigError(
            f"{word} freezes pretrained weights, but init_from=none has none",
            "a bundle to start from",
            "leave out INIT=none or peft",
        )
    if (frozen := construct(config.freezing, Freezing).frozen) != "nothing":
        raise ConfigError(
            f"{word} and freezing.frozen={frozen} both determine what is trained",
            "only one of them",
            "leave out one of the two",
        )
    try:
        construct(peft, LoRA).layers(start.model.backbone)
    except ArgumentError as error:
        raise ConfigError(error.problem, error.expected, error.remedy) from error


def _check_unfreezing(config: Config, options: TrainerOptions) -> None:
    """Refuse layers that are unfrozen in time where weights are sharded: FSDP2 asks for it once.

    Raises:
        ConfigError: what to do.
    """
    if options.is_sharded and construct(config.freezing, Freezing).unfreeze_every_steps is not None:
        raise ConfigError(
            f"freezing.unfreeze_every_steps is not supported with trainer.strategy={options.strategy}",
            "weights that are frozen from the first step to the last, or not at all",
            "leave it out, or use trainer.strategy=ddp",
        )


def _model_node(config: Config, task: FinetuneTask, start: Bundle | None) -> dict[str, Any]:
    """Return the node of the model with the task's head, without allocating memory."""
    if start is not None:
        model, backbone = start.model_config, start.model.backbone
    else:
        model = new_model(config, task.backbone_options)
        with on_meta_device():
            backbone = construct(model["backbone"], Transformer, vocab_size=1)
    return {**model, "head": head_node(task.head(backbone), model["head"])}


def _budget(options: TrainerOptions, labelled: Labelled, start: Bundle | None) -> dict[str, Any]:
    """Return the trainer options that depend on the number of rows, if no length of training was given."""
    if not is_open(options):
        return {}
    task, n_rows = labelled.task, len(labelled.rows["train"])
    found = with_budget(
        options,
        n_rows=n_rows,
        n_classes=task.n_classes,
        least_steps=task.least_steps,
        epochs=IMPORTED_EPOCHS if start is not None and is_imported(start.provenance) else EPOCHS,
    )
    report.say("Budget", describe_budget(found, n_rows))
    return {
        name: getattr(found, name) for name in ("max_steps", "val_every_steps", "plateau", "time_budget_s")
    }

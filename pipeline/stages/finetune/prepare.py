"""Prepare the tokenizer, the model and the examples of a fine-tuning run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from datamodules.cache import cache_key
from datamodules.corpus import Corpus
from datamodules.features import Features
from datamodules.tokenizer import Tokenizer
from modules.init import initialize
from modules.model import Model
from modules.peft import LoRA, add_adapter
from modules.transformer import Transformer
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.model import build_backbone, build_head
from pipeline.config.plain import Config, to_plain
from pipeline.machine.devices import for_rows
from pipeline.prepare import asked_vocab_size, build_tokenizer
from pipeline.stages.finetune.compose import Labelled
from pipeline.tasks.finetuning import FinetuneTask, Row
from pipeline.tracking import DatasetRecord
from pipeline.training.states import Prepared, Started
from pipeline.words import count


@dataclass(frozen=True, kw_only=True)
class Finetuning(Prepared):
    """A fine-tuning run that is ready to train.

    Args:
        task: the task, fitted to the training rows.
        rows: the rows of each split.
        features: the examples made from the training and the validation rows.
    """

    task: FinetuneTask
    rows: Mapping[str, Sequence[Row]]
    features: Mapping[str, Features]


def prepare(started: Started, labelled: Labelled) -> Finetuning:
    """Build the tokenizer, the model and the examples, reporting each."""
    config, task, corpus, rows = started.config, labelled.task, labelled.corpus, labelled.rows
    torch.manual_seed(config.seed)
    tokenizer, model = _build_model(started, task, corpus)
    asked = asked_vocab_size(config) if started.bundle is None else None
    report.say("Tokenizer", report.describe_tokenizer(tokenizer, asked))
    report.say("Model", report.describe_model(model))
    features = {
        split: _features(task, rows[split], tokenizer, model.backbone) for split in ("train", "validation")
    }
    report.say("Examples", report.describe_features(features["train"], features["validation"]))
    for split in rows:
        dataset = _dataset(corpus, tokenizer, split, rows[split])
        started.tracked.log_dataset(dataset, split)  # type: ignore[arg-type]
    n_rows = len(features["train"])
    known = vars(replace(started, options=for_rows(started.options, n_rows)))
    return Finetuning(
        **known,
        task=task,
        corpus=corpus,
        rows=rows,
        tokenizer=tokenizer,
        model=model,
        features=features,
        n_rows=n_rows,
    )


def _build_model(started: Started, task: FinetuneTask, corpus: Corpus) -> tuple[Tokenizer, Model]:
    """Return the bundle's backbone with the task's head, or a new model; with the tokenizer."""
    node, bundle = to_plain(started.config.model), started.bundle
    if bundle is not None:
        tokenizer, backbone = bundle.tokenizer, bundle.model.backbone
    else:
        tokenizer = _new_tokenizer(started.config, task, corpus)
        backbone = build_backbone(node["backbone"], tokenizer)
    model = Model(backbone, build_head(node["head"], backbone))
    initialize(model if bundle is None else model.head, node["init"])
    if bundle is not None and node["head"] == bundle.model_config["head"]:
        model.head.load_state_dict(bundle.model.head.state_dict())
    elif bundle is not None and task.keeps_head:
        report.say(
            "Head",
            f"new, with the embedding as its weights, since {report.short(bundle.folder)} "
            f"was fine-tuned for a task with another head ({type(bundle.model.head).__name__})",
        )
    if peft := to_plain(started.config.get("peft") or {}):
        _adapt(model, construct(peft, LoRA))
    return tokenizer, model.train()


def _adapt(model: Model, options: LoRA) -> None:
    """Add the adapter and freeze the rest of the backbone, except for new token-type embeddings."""
    layers = add_adapter(model.backbone, options)
    if model.backbone.type_embedding is not None:
        model.backbone.type_embedding.requires_grad_(True)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    total = sum(each.numel() for each in model.parameters())
    has_own_head = any(each.requires_grad for each in model.head.parameters())
    report.say(
        "Adapter",
        f"LoRA of rank {options.rank} in {len(layers)} layers: {count(trained)} of "
        f"{count(total)} parameters are trained ({trained / total:.1%})"
        f"{', including the head' if has_own_head else ''}",
    )


def _new_tokenizer(config: Config, task: FinetuneTask, corpus: Corpus) -> Tokenizer:
    """Train one tokenizer for all texts of the task, or one each for input and output."""
    read, *written = (
        build_tokenizer(
            config, corpus, (text for row in corpus.train for text in texts(row)), columns=columns
        )
        for columns, texts in task.vocabularies.items()
    )
    return read.with_target(*written) if written else read


def _features(
    task: FinetuneTask, rows: Sequence[Row], tokenizer: Tokenizer, backbone: Transformer
) -> Features:
    return Features.of(feature for row in rows for feature in task.features(row, tokenizer, backbone))


def _dataset(corpus: Corpus, tokenizer: Tokenizer, split: str, rows: Sequence[Row]) -> DatasetRecord:
    """Describe the rows of a split as an input of the run."""
    return DatasetRecord(
        name=corpus.name,
        digest=cache_key(corpus=corpus.fingerprint, split=split, tokenizer=tokenizer.digest),
        source=corpus.uri,
        columns={name: type(value).__name__ for name, value in rows[0].items()},
        profile={"rows": len(rows), "corpus": corpus.fingerprint, "tokenizer": tokenizer.digest},
    )

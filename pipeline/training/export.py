"""Write the bundles at the end of training."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.corpus import Corpus
from modules.model import Model
from pipeline.card import CardFacts, model_card
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.recorded import config_hash, filled, with_defaults
from pipeline.runs.adapters import ADAPTER
from pipeline.runs.bundle import DONE, Bundle, load_bundle, parent_of, save_bundle
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.runs.folders import NOT_IDENTITY, RunFolder
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tracking import Run
from pipeline.tracking.provenance import collect_provenance
from pipeline.tracking.redaction import Redactor
from pipeline.training.states import AnyPrepared, Trained


def export(
    trained: Trained[AnyPrepared],
    *,
    task_config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Bundle:
    """Write the bundles `last` and `best` from their checkpoints, record them, and read the best one back.

    Bundles go to MLflow and to other people, so secrets in the configuration are redacted.

    Args:
        trained: the trained run.
        task_config: the node of the task, with what it has learned from the rows.
        provenance: further facts for `provenance.json`.
        metrics: metrics measured with the best weights after training.
    """
    prepared, checkpoints = trained.prepared, trained.checkpoints
    config, run, tracked = prepared.config, prepared.run, prepared.tracked
    redactor = Redactor(os.environ)
    task = construct(task_config, FinetuneTask, PretrainingTask)
    origin = {
        "corpus": corpus_record(prepared.corpus),
        "tokenizer": prepared.tokenizer.digest,
        "parent": parent_of(prepared.bundle),
        "cost": {
            "seconds": round(trained.elapsed_s, 1),
            "tokens": trained.tokens_seen,
            "parameters": sum(weight.numel() for weight in prepared.model.parameters()),
        },
        **provenance,
        **origin_of(config, run, tracked),
    }
    both = (
        ("last", checkpoints.last_path, checkpoints.last_metrics),
        ("best", checkpoints.best_path, {**checkpoints.best_metrics, **metrics}),
    )
    for name, file, measured in both:
        step = load_weights(prepared.model, file)
        facts = CardFacts(
            provenance=redactor.value("", {**origin, "step": step}),
            metrics=measured,
            config=redactor.value("", with_defaults(config)),
            task=_without_secrets(filled(task_config, "task"), config, redactor),
            model=redactor.value("", _model_node(config)),
            made_for=task,
        )
        save_bundle(
            run.bundles / name,
            model=prepared.model,
            tokenizer=prepared.tokenizer,
            model_config=facts.model,
            task_config=facts.task,
            config=facts.config,
            provenance=facts.provenance,
            metrics=measured,
            card=model_card(facts),
        )
        tracked.log_bundle(run.bundles / name, name=name, step=step, metrics=measured)
    run.keep(run.bundles / "best" / DONE)
    return load_bundle(run.bundles / "best")


def _model_node(config: Config) -> dict[str, Any]:
    """Return the model's node, including the adapter's if there is one."""
    model = filled(to_plain(config.model), "model")
    peft = to_plain(config.get("peft") or {})
    return {**model, ADAPTER: filled(peft, "peft")} if peft else model


def load_weights(model: Model, checkpoint: Path) -> int:
    """Load the weights of a checkpoint into `model`, and return the step of the checkpoint.

    A model without memory (`without_memory`) takes over the loaded tensors.
    """
    state = AtomicCheckpointIO().load_checkpoint(checkpoint)
    prefix = "model."
    weights = {
        key.removeprefix(prefix): value
        for key, value in state["state_dict"].items()
        if key.startswith(prefix)
    }
    model.load_state_dict(weights, assign=next(model.parameters()).is_meta)
    return int(state["global_step"])


def corpus_record(corpus: Corpus) -> dict[str, Any]:
    """Return the record of a corpus for a bundle's provenance."""
    record = {"name": corpus.name, "fingerprint": corpus.fingerprint, "sources": corpus.sources}
    return {**record, "repeated": corpus.repeated} if corpus.repeated else record


def _without_secrets(task: Mapping[str, Any], config: Config, redactor: Redactor) -> dict[str, Any]:
    """Redact secrets in the options of the task, but not in what it has learned from the rows.

    Labels are data: a label that looks like a secret is still the label that the model predicts.
    """
    asked = to_plain(config.task)
    return {
        key: redactor.value(key, value) if value == asked.get(key) else value for key, value in task.items()
    }


def origin_of(config: Config, run: RunFolder, tracked: Run) -> dict[str, Any]:
    """Return the facts about the run that are needed to reproduce a bundle."""
    code = dict(tracked.provenance) or collect_provenance(  # also without tracking
        Path.cwd(), argv=sys.argv, seed=config.seed, redactor=Redactor(os.environ)
    )
    return {
        "run": run.name,
        "run_id": tracked.run_id,
        "stage": config.stage.name,
        "seed": config.seed,
        "config": config_hash(config, without=NOT_IDENTITY),
        "init_from": config.get("init_from"),
        "code": code,
    }

"""Import a Hugging Face model as a bundle, with its weights, its tokenizer and their provenance."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.cache import cache_key
from pipeline import report
from pipeline.card import CardFacts, model_card
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.recorded import with_defaults
from pipeline.errors import ConfigError, InteropError
from pipeline.interop.checkpoint import Checkpoint, read_checkpoint
from pipeline.interop.hub import find_model, stated_licence
from pipeline.interop.importing import Imported, import_model
from pipeline.runs.bundle import DONE, save_bundle
from pipeline.runs.folders import RunFolder, open_run
from pipeline.runs.inputs import cheap_inputs
from pipeline.stages.following import after_import
from pipeline.tasks.base import PretrainingTask
from pipeline.tracking import Run
from pipeline.tracking.redaction import Redactor
from pipeline.training.export import origin_of
from pipeline.training.states import record

#: The recorded choice of groups for an imported model.
IMPORTED = "imported"


def import_weights(config: Config) -> StageResult:
    """Read a folder, a GGUF file or a model on the Hub, verify the import, and write its bundle.

    Nothing is written before everything has been read and compared.

    Raises:
        ConfigError: if no model is named.
        InteropError: if the run exists, or the model cannot be read or expressed, or its outputs differ.
    """
    if not config.source:
        raise ConfigError(
            "there is no model to import",
            "a folder or a name on the Hub",
            "name one: make import FROM=FOLDER",
        )
    if config.name and (Path(config.runs_dir) / config.name).exists():
        raise InteropError(
            f"the run {config.name} already exists",
            "an unused name",
            "choose another NAME=..., or leave it out",
        )
    place, origin = find_model(config.source)
    report.say("Source", f"{report.short(place)}{' (from the Hub)' if origin else ''}")
    checkpoint = read_checkpoint(place, origin)
    imported = import_model(checkpoint, max_seq_len=config.max_seq_len)
    report.say("Model", report.describe_model(imported.model))
    report.say("Tokenizer", report.describe_tokenizer(imported.tokenizer, None))
    if imported.unused:
        report.say("Not used", f"{', '.join(imported.unused)}: the model does not use them")
    if not imported.has_head:
        report.say(
            "No head", "the files have none: the model can be fine-tuned for tasks with a head of their own"
        )
    error = imported.prove()
    what = "logits" if imported.has_head else "hidden states"
    report.say("Proof", f"the same tokens and {what} as in transformers (relative error {error:.0e})")
    return _write(config, checkpoint, imported)


def _write(config: Config, checkpoint: Checkpoint, imported: Imported) -> StageResult:
    sources = checkpoint.sources
    inputs = {**cheap_inputs(config), "model": cache_key(files=[source["sha256"] for source in sources])}
    config = _with_model(config, checkpoint, imported)
    word = Path(config.source.rstrip("/")).stem.lower() or "model"
    with (
        open_run(config, label=f"import-{word}", inputs=inputs) as run,
        record(config, run, is_report=True) as tracked,
    ):
        report.say("Run", report.short(run.path))
        folder = run.bundles / "best"
        origin = {
            "from": config.source,
            **checkpoint.origin,
            "model_type": checkpoint.config["model_type"],
            "licence": stated_licence(checkpoint.folder),
            "unused": list(imported.unused),
            "sources": sources,
        }
        _save(folder, config, run, tracked, imported, origin)
        tracked.log_bundle(folder, name="best", step=0, metrics={})
        run.keep(folder / DONE)
        tracked.describe(f"Imported from `{config.source}` ({origin['model_type']}).")
        tracked.end("FINISHED", {})
    report.summary(
        f"{run.name}: done",
        metrics={},
        facts={"bundle": report.short(folder), "from": config.source, "files": f"{len(sources)}, hashed"},
        samples=[],
        next_commands=after_import(
            run,
            type(imported.model.backbone),
            has_head=imported.has_head,
            has_chatml=imported.tokenizer.has_chatml,
        ),
        address=tracked.url,
    )
    return StageResult(stage="import", run_id=tracked.run_id, bundle=str(folder))


def _save(
    folder: Path,
    config: Config,
    run: RunFolder,
    tracked: Run,
    imported: Imported,
    origin: Mapping[str, Any],
) -> None:
    redactor = Redactor(os.environ)
    provenance = {
        "tokenizer": imported.tokenizer.digest,
        "parent": None,
        "imported": dict(origin),
        **origin_of(config, run, tracked),
        "cost": {"parameters": sum(weight.numel() for weight in imported.model.parameters())},
        "step": 0,
    }
    task = {"_target_": imported.task}
    facts = CardFacts(
        provenance=redactor.value("", provenance),
        metrics={},
        config=redactor.value("", with_defaults(config)),
        task=task,
        model=imported.model_config,
        made_for=construct(task, PretrainingTask),
    )
    save_bundle(
        folder,
        model=imported.model,
        tokenizer=imported.tokenizer,
        model_config=facts.model,
        task_config=facts.task,
        config=facts.config,
        provenance=facts.provenance,
        metrics=facts.metrics,
        card=model_card(facts),
    )


def _with_model(config: Config, checkpoint: Checkpoint, imported: Imported) -> Config:
    """Add the model to the configuration, as runs that start from the bundle will record it."""
    backbone = imported.model_config["backbone"]
    size = {name: backbone["layer"][name] for name in ("d_model", "n_heads")}
    size |= {name: backbone[name] for name in ("n_layers", "max_seq_len")}
    groups = {"size": IMPORTED, "position": IMPORTED, "tokenizer": IMPORTED}
    return Config(
        {
            **to_plain(config),
            "model": imported.model_config,
            "size": size,
            "position": backbone["position"],
            "tokenizer": {"_target_": "datamodules.tokenizer.TokenizerFile", "path": config.source},
            "choices": {
                **to_plain(config)["choices"], **groups, "model": checkpoint.config["model_type"],
            },
        }
    )  # fmt: skip

"""Train a tokenizer, or find it in the cache, and measure how well it compresses its corpus."""

import json
from itertools import islice
from pathlib import Path

from rich.table import Table
from rich.text import Text

from datamodules.corpus import texts
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.output import write_whole
from pipeline.prepare import asked_vocab_size, build_tokenizer, load_corpus
from pipeline.runs.folders import open_run
from pipeline.runs.inputs import inputs_of
from pipeline.runs.tags import pipeline_tag
from pipeline.tracking import DatasetRecord, RunCard, TrackingOptions, start_run

#: Number of validation rows that the tokenizer is measured on.
N_ROWS = 1000


def train_tokenizer(config: Config) -> StageResult:
    """Train, save and measure a tokenizer."""
    label = f"tokenizer-{config.choices.tokenizer}-{config.choices.data}"
    with open_run(config, label=label, inputs=inputs_of(config)) as run:
        card = RunCard(
            stage="tokenizer",
            name=run.name,
            config=with_defaults(config),
            seed=config.seed,
            tags=pipeline_tag(config),
            is_report=True,
        )
        options = construct(config.tracking, TrackingOptions)
        with start_run(card, options=options, run_folder=run.path, project_folder=Path.cwd()) as tracked:
            report.say("Run", report.short(run.path))
            corpus, cleaned = load_corpus(config)
            report.say_corpus(corpus, cleaned)
            tokenizer = build_tokenizer(config, corpus)
            asked = asked_vocab_size(config)
            report.say("Tokenizer", report.describe_tokenizer(tokenizer, asked))
            file = run.path / "tokenizer.json"
            tokenizer.save(file)
            measured = list(islice(texts(corpus.validation), N_ROWS))
            n_tokens = sum(len(ids) for ids in tokenizer.encode_batch(measured))
            metrics = {
                "vocab_size": float(tokenizer.vocab_size),
                "val/bytes_per_token": sum(len(text.encode()) for text in measured) / n_tokens,
            }
            tracked.log_dataset(
                DatasetRecord(name=corpus.name, digest=corpus.fingerprint, source=corpus.uri), "tokenizer"
            )
            tracked.log_file(file, "tokenizer.json")
            write_whole(run.path / "metrics.json", json.dumps(metrics))
            run.keep(file, run.path / "metrics.json")
            tracked.end("FINISHED", metrics)
        _summarise(
            run.name, file, metrics, measured[0], tokenizer.decode_tokens(tokenizer.encode(measured[0])[:60])
        )
    return StageResult(stage="tokenizer", run_id=tracked.run_id, metrics=metrics)


def _summarise(name: str, file: Path, metrics: dict[str, float], text: str, pieces: list[str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("vocabulary", f"{metrics['vocab_size']:,.0f} tokens")
    table.add_row("bytes per token on validation text", f"{metrics['val/bytes_per_token']:.2f}")
    table.add_row("file", report.short(file))
    table.add_row("beginning of a text", Text(text[:200]))
    table.add_row("as tokens", Text("|".join(pieces), style="dim"))
    report.panel(f"{name}: done", table)

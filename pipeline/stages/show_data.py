"""Show a training batch as text, ids, mask and labels."""

from datamodules.collate import RowBatch
from datamodules.inspect import show_rows
from datamodules.sampling import ResumableBatchSampler
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.tasks import pretraining_task
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import build_rows, build_tokenizer, load_corpus


def show_data(config: Config) -> StageResult:
    """Print the first row of the first batch that training would read."""
    task = pretraining_task(config)
    corpus, cleaned = load_corpus(config)
    report.say_corpus(corpus, cleaned)
    tokenizer = build_tokenizer(config, corpus)
    limit = config.model.backbone.max_seq_len
    options = construct(config.trainer, TrainerOptions)
    rows, validation = build_rows(config, options, corpus, tokenizer, task, max_seq_len=limit)
    report.say("Tokens", report.describe_rows(rows, validation))
    keys = ResumableBatchSampler(len(rows), batch_size=1, seed=config.seed).keys(0)
    batch = task.collator(tokenizer, seed=config.seed)(RowBatch(*rows.take(keys % len(rows)), keys))
    report.page(show_rows(batch, tokenizer))
    return StageResult(stage="show-data")

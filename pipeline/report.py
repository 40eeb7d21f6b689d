"""Messages of a stage on standard error: its inputs, its results, and the commands to run next."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from datamodules.cache import TokenRows
from datamodules.corpus import Corpus
from datamodules.features import Features
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline import processes
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import Score
from pipeline.words import clock, count

#: Titles of metrics, in the order in which they are shown.
TITLES = {
    "train/loss": "training loss (nats per token)",
    "val/loss": "validation loss (nats per token)",
    "test/loss": "loss (nats per token)",
    "val/perplexity": "validation perplexity",
    "test/perplexity": "perplexity",
    "val/bits_per_byte": "validation bits per byte",
    "test/bits_per_byte": "bits per byte",
    "optimum_bits_per_byte": "exact entropy of the corpus (bits per byte)",
    "val/accuracy": "validation accuracy (of labelled tokens)",
    "test/accuracy": "accuracy (of labelled tokens)",
}

#: The columns of a line that the purpose of a command gets at least, with the frame.
ROOM = 24


def console() -> Console:
    """Return a console on standard error, 100 columns wide if that is not a terminal."""
    width = None if sys.stderr.isatty() else 100
    return Console(stderr=True, width=width, highlight=False, quiet=not processes.is_first())


def say(topic: str, text: str, *, wrap: bool = True) -> None:
    """Print one line about a topic; `wrap=False` keeps text that users copy, such as a URL, on one line."""
    if not wrap:
        console().print(Text.assemble((f"{topic:<10}", "bold"), " ", text), soft_wrap=True)
        return
    line = Table.grid(padding=(0, 1))
    line.add_column(min_width=10, no_wrap=True, style="bold")
    line.add_column(overflow="fold")
    line.add_row(topic, Text(text))
    console().print(line)


def panel(title: str, content: RenderableType) -> None:
    """Print a framed block with a title."""
    console().print(Panel(content, title=f"[bold]{title}[/bold]", title_align="left"))


def page(content: RenderableType) -> None:
    """Print the requested result on standard output."""
    Console(width=None if sys.stdout.isatty() else 100, highlight=False).print(content)


def summary(
    title: str,
    *,
    metrics: Mapping[str, float],
    facts: Mapping[str, str],
    samples: Sequence[Sample],
    next_commands: Mapping[str, str],
    scores: Mapping[str, Score] | None = None,
    address: str | None = None,
) -> None:
    """Print the summary of a stage; `scores` are a fine-tuned model's metrics, `address` its MLflow URL."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, score in (scores or {}).items():
        table.add_row(name.replace("_", " "), show_score(score))
    for key, name in TITLES.items():
        if key in metrics:
            table.add_row(name, f"[bold]{metrics[key]:.4f}[/bold]")
    for name, fact in facts.items():
        table.add_row(name, Text(fact, overflow="fold"))
    panel(title, table)
    if samples:
        panel("Samples", show_samples(samples))
    if next_commands:
        commands = Table(show_header=False, box=None, pad_edge=False)
        longest = max(map(len, next_commands))
        commands.add_column(no_wrap=longest < console().width - ROOM)  # a broken line cannot be pasted
        commands.add_column()
        for command, purpose in next_commands.items():
            commands.add_row(Text(command, style="bold"), purpose)
        panel("Next", commands)
    if address is not None:
        show_address("This run", address)


def show_address(what: str, address: str) -> None:
    """Print the URL of a page of MLflow on a line of its own: a frame or a line break would cut it."""
    console().print(f"{what} in MLflow (make ui): {address}", soft_wrap=True, markup=False)


def show_score(score: Score) -> str:
    """Format a metric with its confidence interval and the number of rows."""
    words = []
    if score.low is not None:
        words.append(f"95 %: {score.low:.4f} to {score.high:.4f}")
    if score.n_rows is not None:
        words.append(f"{score.n_rows:,} {'row' if score.n_rows == 1 else 'rows'}")
    return f"[bold]{score.value:.4f}[/bold]" + (f"  ({', '.join(words)})" if words else "")


def show_samples(samples: Sequence[Sample]) -> RenderableType:
    """Render samples one below the other; a prompt that the output continues is in bold."""
    parts: list[RenderableType] = []
    for number, sample in enumerate(samples, 1):
        if sample.is_continuation:
            parts.append(Text.assemble((f"{number}  ", "dim"), (sample.input, "bold"), sample.output))
        else:
            parts.append(_beside_target(number, sample))
        parts.append(Text())
    return Group(*parts[:-1])


def _beside_target(number: int, sample: Sample) -> Table:
    """Render a sample in columns, so that long text is wrapped next to its title and not below it."""
    rows = {"input": sample.input, "prediction": sample.output}
    if sample.target is not None:
        rows["target"] = sample.target
    table = Table(show_header=False, box=None, pad_edge=False)
    for place, (title, text) in enumerate(rows.items()):
        table.add_row(str(number) if place == 0 else "", title, Text(text, overflow="fold"))
    table.columns[0].style = table.columns[1].style = "dim"
    return table


def samples_markdown(samples: Sequence[Sample]) -> str:
    """Format samples as Markdown for the tracking store."""
    blocks = []
    for number, sample in enumerate(samples, 1):
        lines = [f"## {number}", ""]
        if sample.is_continuation:
            lines += [f"**{sample.input}**{sample.output}" if sample.input else sample.output]
        else:
            lines += [f"Input: {sample.input}", "", f"Prediction: {sample.output}"]
            lines += ["", f"Target: {sample.target}"] if sample.target is not None else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def say_corpus(corpus: Corpus, cleaned: Mapping[str, int]) -> None:
    """Print the corpus of the run, its notes, and a warning if splits share rows."""
    say("Corpus", describe_corpus(corpus, cleaned))
    for note in corpus.notes:
        say("Note", note)
    rows = {"train": corpus.n_train_rows, "validation": corpus.n_validation_rows, "test": corpus.n_test_rows}
    for pair, number in corpus.repeated.items():
        split, _, other = pair.partition(" in ")
        named = {"train": "training", "validation": "validation"}[other]
        say(
            "Warning",
            f"{number:,} of {rows[split]:,} {split} rows are also {named} rows, so "
            f"{split} metrics are better than on new rows",
        )


def describe_corpus(corpus: Corpus, cleaned: Mapping[str, int]) -> str:
    """Describe a corpus: its name, rows and fingerprint, and what cleaning changed."""
    numbers = {"training": corpus.n_train_rows, "validation": corpus.n_validation_rows}
    if corpus.test is not None:
        numbers["test"] = corpus.n_test_rows
    rows = ", ".join(
        f"a stream of {split} rows" if n is None else f"{n:,} {split} {'row' if n == 1 else 'rows'}"
        for split, n in numbers.items()
    )
    changes = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in cleaned.items() if number)
    return f"{corpus.name}, {rows}, {corpus.fingerprint[:12]}" + (
        f" (cleaning: {changes})" if changes else ""
    )


def describe_rows(train: TokenRows, validation: TokenRows) -> str:
    """Describe token rows: the number of tokens, rows and padding."""
    counts = train.manifest["counts"]
    padding = counts["padding"] / (len(train) * train.row_tokens)
    return (
        f"{count(counts['kept'])} in {len(train):,} rows of {train.row_tokens} ({padding:.1%} padding), "
        f"{len(validation):,} rows for validation"
    )


def describe_features(train: Features, validation: Features) -> str:
    """Describe examples: their number and their length."""
    lengths = train.lengths_of("input_ids")
    mean, longest = lengths.mean(), lengths.max()
    return (
        f"{len(train):,} to train on, of {mean:.0f} tokens on average and {longest:,} at most, "
        f"{len(validation):,} to validate on"
    )


def describe_model(model: Model) -> str:
    """Describe a model: its architecture and its size."""
    backbone = model.backbone
    embedding = sum(table.weight.numel() for table in {backbone.embedding, backbone.output_embedding})
    total = sum(weight.numel() for weight in model.parameters())
    kind = type(backbone).__name__
    return f"{kind}, {count(total - embedding)} parameters + {count(embedding)} in the embedding"


def describe_tokenizer(tokenizer: Tokenizer, asked: int | None = None) -> str:
    """Describe a tokenizer: the size of its vocabulary, or of both, and its hash.

    `asked` is the requested size, which a small training text may not reach.
    """
    sizes = f"{tokenizer.vocab_size:,} tokens"
    if tokenizer.has_own_target:
        sizes += f" to read, {tokenizer.target.vocab_size:,} to write"
    fewer = asked is not None and min(tokenizer.vocab_size, tokenizer.target.vocab_size) < asked
    return f"{sizes}, {tokenizer.digest[:12]}" + (
        f" (at most {asked:,}; the text yields no more)" if fewer else ""
    )


def describe_pace(seconds: float, tokens: int) -> str:
    """Describe the duration and the speed of training."""
    speed = f", {count(tokens / seconds)} tokens per second" if seconds > 0 and tokens else ""
    return f"{clock(seconds)} with validations{speed}"


def short(path: Path) -> str:
    """Return the path as a user would type it: relative to the working folder if it is inside that."""
    return (
        str(path.relative_to(Path.cwd()))
        if path.is_absolute() and path.is_relative_to(Path.cwd())
        else str(path)
    )

"""Compare the conversion of a text file to token rows on disk with run_clm.py of `transformers`."""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast

from benchmarks.side_by_side import Row, compare
from datamodules.tokenizer import Tokenizer
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import build_rows, build_tokenizer, load_corpus

N_BYTES = 4_000_000
N_WORDS, WORDS_PER_LINE = 20_000, 150
BLOCK = 256


def measure(n_turns: int | None) -> list[Row]:
    """Measure megabytes per second, both with the same vocabulary and on all cores."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        text = folder / "text.txt"
        text.write_text(made_up_text(), encoding="utf-8")
        config = compose("pretrain", ["data=files", f"data.train={text}", f"cache_dir={folder}/tokenizer"])
        tokenizer = build_tokenizer(config, load_corpus(config)[0])
        tokenizer.save(folder / "tokenizer.json")
        datasets.disable_progress_bars()
        return compare(
            "tokenize and pack",
            {"ours": partial(ours, text, tokenizer, folder), "run_clm": partial(theirs, text, folder)},
            amount=N_BYTES / 1e6,
            unit="MB/s",
            n_turns=n_turns,
            more={"megabytes": N_BYTES / 1e6, "block": BLOCK},
        )


def made_up_text() -> str:
    """Return lines of made-up words whose frequencies follow Zipf's law, as in natural languages."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 10, N_WORDS)]
    chances = 1 / np.arange(1, N_WORDS + 1)
    drawn = random.choice(N_WORDS, N_BYTES // 4, p=chances / chances.sum())
    lines = (
        " ".join(words[i] for i in drawn[start : start + WORDS_PER_LINE])
        for start in range(0, len(drawn), WORDS_PER_LINE)
    )
    return "\n".join(lines)[:N_BYTES]


def ours(text: Path, tokenizer: Tokenizer, folder: Path, n_times: int) -> float:
    """Return the seconds for reading, tokenizing, packing and writing, without a cache."""
    started = time.perf_counter()
    for _ in range(n_times):
        with TemporaryDirectory(dir=folder) as cache:
            overrides = [
                "data=files",
                f"data.train={text}",
                f"cache_dir={cache}",
                f"size.max_seq_len={BLOCK}",
            ]
            config = compose("pretrain", overrides)
            corpus, _ = load_corpus(config)
            options = construct(config.trainer, TrainerOptions)
            build_rows(config, options, corpus, tokenizer, construct(config.task), max_seq_len=BLOCK)
    return time.perf_counter() - started


def theirs(text: Path, folder: Path, n_times: int) -> float:
    """Return the seconds for the same with `datasets`: map the tokenizer, then group the texts."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))  # type: ignore[no-untyped-call]
    started = time.perf_counter()
    for _ in range(n_times):
        with TemporaryDirectory(dir=folder) as cache:
            raw = datasets.load_dataset("text", data_files=str(text), split="train", cache_dir=cache)
            tokens = raw.map(
                lambda rows: tokenizer(rows["text"], return_token_type_ids=False),
                batched=True,
                remove_columns=["text"],
            )
            tokens.map(_grouped, batched=True)
    return time.perf_counter() - started


def _grouped(rows: dict[str, list[list[int]]]) -> dict[str, Any]:
    joined: dict[str, Any] = {name: [token for row in lists for token in row] for name, lists in rows.items()}
    whole = len(joined["input_ids"]) // BLOCK * BLOCK
    cut = {
        name: [tokens[start : start + BLOCK] for start in range(0, whole, BLOCK)]
        for name, tokens in joined.items()
    }
    return {**cut, "labels": cut["input_ids"].copy()}

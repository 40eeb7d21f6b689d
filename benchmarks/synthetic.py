"""Rows of random tokens, and a tokenizer for them, to measure training without a corpus."""

from collections.abc import Iterator
from random import Random
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from datamodules.packing import pack
from datamodules.tokenizer import Tokenizer
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.tasks.base import PretrainingTask

#: Number of different batches, which are then repeated in another order.
N_BATCHES = 32

#: Number of made-up words per token of the vocabulary, enough for any tokenizer to reach its size.
WORDS_PER_TOKEN = 10


class SyntheticRows:
    """Packed rows in memory, with the interface of the cache."""

    def __init__(self, ids: npt.NDArray[np.integer], segment_ids: npt.NDArray[np.integer]) -> None:
        self._ids, self._segment_ids = ids, segment_ids

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, indices: npt.ArrayLike, /) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the ids (n, L) and segment ids (n, L) of these rows."""
        chosen = np.asarray(indices)
        return self._ids[chosen], self._segment_ids[chosen]

    def first(self, n: int) -> Self:
        """Return the first `n` rows."""
        return type(self)(*self.take(range(n)))


def make_rows(
    task: PretrainingTask,
    tokenizer: Tokenizer,
    *,
    max_seq_len: int,
    document_tokens: int,
    packing: Literal["concat", "whole"],
    batch_size: int,
    seed: int,
) -> SyntheticRows:
    """Return rows for `N_BATCHES` batches, packed from documents of 0.5 to 1.5 times `document_tokens`."""
    chunks = pack(
        _documents(tokenizer, document_tokens, seed=seed),
        row_tokens=task.row_tokens(max_seq_len),
        overlap=task.overlap,
        mode=packing,
        pad_id=tokenizer.pad_id,
        max_rows=N_BATCHES * batch_size,
    )
    ids, segment_ids = zip(*chunks, strict=True)
    return SyntheticRows(np.concatenate(ids), np.concatenate(segment_ids))


def make_tokenizer(config: Config) -> Tokenizer:
    """Return a tokenizer of the configured kind and size, trained on made-up words."""
    random = Random(0)
    n_words = WORDS_PER_TOKEN * config.tokenizer.get("vocab_size", 1)
    words = (
        "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(n_words)
    )
    tokenizer: Tokenizer = construct(config.tokenizer).train([" ".join([*words] * 2)])
    return tokenizer


def _documents(tokenizer: Tokenizer, document_tokens: int, *, seed: int) -> Iterator[npt.NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    while True:
        n_tokens = max(1, round(document_tokens * random.uniform(0.5, 1.5)) - 2)
        inside = random.integers(len(tokenizer.special_ids), tokenizer.vocab_size, n_tokens)
        yield np.concatenate(([tokenizer.bos_id], inside, [tokenizer.eos_id])).astype(np.int32)

from typing import Any

import numpy as np
import pytest

from datamodules.corpus import batches
from pipeline.prepare import _encoded


class Counting:
    """A tokenizer that notes how many texts it is given at once."""

    bos_id, eos_id = 1, 2

    def __init__(self) -> None:
        self.given: list[int] = []

    def encode_batch(self, texts: list[str]) -> list[Any]:
        self.given.append(len(texts))
        return [np.array([len(text)], np.int32) for text in texts]


def test_long_documents_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SIZE_AT_ONCE", 10)
    tokenizer: Any = Counting()
    rows = [{"text": "a" * length} for length in (6, 6, 1, 1, 20, 3)]
    encoded = [(ids.tolist(), n_bytes) for ids, n_bytes in _encoded(rows, tokenizer)]
    assert encoded == [([1, length, 2], length) for length in (6, 6, 1, 1, 20, 3)]
    assert tokenizer.given == [2, 3, 1]

"""One text or a pair of texts as token ids that fit into the context of the backbone."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from pipeline.tasks.explaining import Place, places_of
from pipeline.tasks.finetuning import Row, number_of
from pipeline.tasks.scoring import Ints

#: The number of rows that are tokenized at once.
_ENCODE_ROWS = 1024


def check_texts(rows: Sequence[Row], split: str) -> None:
    """Check that `text` is text, and that `text_pair` is text or missing.

    Raises:
        DataError: names the split, the row, and the value.
    """
    for place, row in enumerate(rows):
        for column in ("text", "text_pair"):
            value = row.get(column)
            if not isinstance(value, str) and not (column == "text_pair" and value is None):
                found = "missing" if value is None else f"{type(value).__name__} {value!r}"
                raise DataError(
                    f"{split}, row {number_of(rows, place)}: '{column}' is {found}",
                    "text",
                    f"drop the row, or name the right column with data.columns.{column}=...",
                )


def encoded(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, limit: int) -> Iterator[Ints]:
    """Yield the token ids of each row with special tokens, at most `limit` of them."""
    for first in range(0, len(texts), _ENCODE_ROWS):
        some = texts[first : first + _ENCODE_ROWS]
        encoded = iter(tokenizer.encode_batch([text for row in some for text in row]))
        for row in some:
            parts = truncated([next(encoded) for _ in row], max(limit - 1 - len(row), 0))
            joined = [[tokenizer.bos_id], parts[0], *([tokenizer.sep_id], *parts[1:]) * (len(parts) - 1)]
            yield np.concatenate([*joined, [tokenizer.eos_id]]).astype(np.int64)


def truncated(parts: Sequence[npt.NDArray[np.integer]], room: int) -> list[npt.NDArray[np.integer]]:
    """Truncate one or two texts to `room` tokens together, the longer one first."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = map(len, parts)
    kept = max(room - second, room - room // 2)
    return [parts[0][:kept], parts[1][: room - min(first, kept)]]


def places(texts: Mapping[str, str], tokenizer: Tokenizer, limit: int) -> list[Place | None]:
    """Return the characters that each token of `encoded` covers in `texts`, given by column."""
    room = max(limit - 1 - len(texts), 0)
    spans = [np.stack(tokenizer.encode_with_offsets(text)[1:], axis=1) for text in texts.values()]
    found: list[Place | None] = []
    for column, kept in zip(texts, truncated(spans, room), strict=True):
        found += [None, *places_of(column, kept[:, 0], kept[:, 1])]
    return [*found, None]

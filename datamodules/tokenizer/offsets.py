"""Compute the spans of characters of tokens."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


def character_spans(text: str, n_bytes: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the start and the end, each (L,), of the spans of characters of L tokens that make up a text.

    A token that is a part of the bytes of a character has the span of that character.

    Args:
        text: the text that was tokenized.
        n_bytes: the number of bytes (L,) of each token, at least one; they add up to the text's UTF-8 bytes.
    """
    ends = np.cumsum(n_bytes)
    if text.isascii():
        return (ends - n_bytes).astype(np.int32), ends.astype(np.int32)
    content = np.frombuffer(text.encode(), np.uint8)
    character = np.cumsum((content & 0xC0) != 0x80) - 1  # of each byte; 0b10xxxxxx continues a character
    return character[ends - n_bytes].astype(np.int32), (character[ends - 1] + 1).astype(np.int32)

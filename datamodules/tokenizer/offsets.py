"""Which characters of a text its tokens stand for."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


def character_spans(text: str, n_bytes: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Give first and one past last character, each (L,), of L tokens that are the text's UTF-8 end to end.

    A token that is a part of a character's bytes has the span of that character.

    Args:
        text: the text that the tokens were made of.
        n_bytes: bytes (L,) of each token, at least one, in all those of the text.
    """
    ends = np.cumsum(n_bytes)
    if text.isascii():
        return (ends - n_bytes).astype(np.int32), ends.astype(np.int32)
    content = np.frombuffer(text.encode(), np.uint8)
    character = np.cumsum((content & 0xC0) != 0x80) - 1  # of each byte; 0b10xxxxxx goes on with one
    return character[ends - n_bytes].astype(np.int32), (character[ends - 1] + 1).astype(np.int32)

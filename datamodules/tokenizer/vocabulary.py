"""Read the pieces of a vocabulary: their bytes, and which of them begin a word."""

import json

import numpy as np
import numpy.typing as npt
import tokenizers

from datamodules.errors import TokenizerError
from datamodules.tokenizer import pretokens
from datamodules.tokenizer.special import BYTE_OF_CHARACTER, CONTINUES, N_SPECIAL_TOKENS, SPECIAL_TOKENS

#: What is expected of a file that should be a tokenizer made by Prelude.
OURS = "a tokenizer.json written by Prelude (by the stage tokenizer, or in a bundle)"


def read_vocabulary(engine: tokenizers.Tokenizer) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
    """Return the bytes of each id, and whether it begins a word.

    Raises:
        TokenizerError: if the engine was not made by Prelude.
    """
    model = json.loads(engine.to_str())
    vocabulary = engine.get_vocab(with_added_tokens=True)
    by_id = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    ours = json.loads(pretokens.pre_tokenizer().__getstate__())
    regular = by_id[N_SPECIAL_TOKENS:]
    if (
        tuple(by_id[:N_SPECIAL_TOKENS]) != SPECIAL_TOKENS
        or sorted(vocabulary.values()) != list(range(len(by_id)))
        or (model["normalizer"], model["pre_tokenizer"], model["post_processor"]) != (None, ours, None)
        or any(c not in BYTE_OF_CHARACTER for piece in regular for c in piece.removeprefix(CONTINUES))
    ):
        raise TokenizerError(
            "the tokenizer has different special tokens or rules", OURS, "train one with `make tokenizer`"
        )
    stripped = [piece.removeprefix(CONTINUES) for piece in regular]
    pieces = [piece.encode() for piece in SPECIAL_TOKENS]
    pieces += [bytes(BYTE_OF_CHARACTER[c] for c in piece) for piece in stripped]
    marked = model["model"]["type"] == "WordPiece"
    starts = [False] * N_SPECIAL_TOKENS + [
        (marked and not piece.startswith(CONTINUES)) or starts_word(text, alone=not marked)
        for piece, text in zip(regular, pieces[N_SPECIAL_TOKENS:], strict=True)
    ]
    return pieces, np.array(starts, dtype=np.bool_)


def starts_word(piece: bytes, *, alone: bool) -> bool:
    """Return whether a piece begins a word, judged by its first character.

    A letter of an alphabet continues a word (a space belongs to the piece after it). A Chinese or Japanese
    character is a word. Anything else begins a word if continuing pieces are not marked (`alone`).
    """
    text = piece.decode("utf-8", "ignore")
    if 0x80 <= piece[0] < 0xC0:
        return False
    if piece[0] >= 0xE3:  # lead bytes of CJK, kana, hangul and emoji, even of an incomplete character
        return True
    if not text or piece[0] >= 0x80 > ord(text[0]):  # an incomplete letter of an alphabet
        return False
    return alone and not text[0].isalpha()


def printable(piece: bytes) -> str:
    """Format a piece for display: spaces as `␣`, line breaks as `⏎`, parts of characters in hexadecimal."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in piece)
    text = text.replace(" ", "␣").replace("\n", "⏎")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

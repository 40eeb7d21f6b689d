"""What the vocabulary of a tokenizer says of its pieces: their bytes, and which begin a word."""

import json

import numpy as np
import numpy.typing as npt
import tokenizers

from datamodules.errors import TokenizerError
from datamodules.tokenizer import pretokens
from datamodules.tokenizer.special import BYTE_OF_CHARACTER, CONTINUES, N_SPECIAL_TOKENS, SPECIAL_TOKENS

#: What is expected where a tokenizer of this program is read.
OURS = "a tokenizer.json written by this program (a tokenizer stage or a bundle)"


def read_vocabulary(engine: tokenizers.Tokenizer) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
    """Give the bytes of every id, and whether it begins a word; refuse engines that are not ours."""
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
            "the tokenizer has other special tokens or rules", OURS, "train one with: make tokenizer"
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
    """Judge by its first character whether a piece begins a word.

    A letter of an alphabet continues the word before it (a space belongs to the piece after it); a Chinese
    or Japanese character is a word of its own; anything else begins a word when pieces are not marked.
    """
    text = piece.decode("utf-8", "ignore")
    if 0x80 <= piece[0] < 0xC0:
        return False
    if piece[0] >= 0xE3:  # lead bytes of CJK, kana, hangul and emoji, even where the character is cut
        return True
    if not text or piece[0] >= 0x80 > ord(text[0]):  # a cut letter of Latin, Greek, Cyrillic, Indic scripts
        return False
    return alone and not text[0].isalpha()


def printable(piece: bytes) -> str:
    """A piece for people: spaces as `␣`, line ends as `⏎`, parts of characters in hexadecimal."""
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in piece)
    text = text.replace(" ", "␣").replace("\n", "⏎")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

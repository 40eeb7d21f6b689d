"""Split a text into words, and join words to a text."""

import re
from collections.abc import Sequence

#: Scripts without spaces between words: each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WIDE = re.compile(f"[{_UNSPACED}\u3000-\u303f\uff00-\uffef“”]")
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w\u0300-\u036f])+|[^\w\s]")
_CLOSING = re.compile(r"[.,;:!?%)\]}”’']")
_OPENING = frozenset("([{„")

Spans = list[tuple[int, int]]


def word_spans(text: str) -> Spans:
    """Return the span [start, end) of each word and punctuation mark, or of each Chinese character."""
    return [match.span() for match in _WORD.finditer(text)]


def joined(words: Sequence[str]) -> tuple[str, Spans]:
    """Join words to a text with the usual spacing, and return the span [start, end) of each word.

    There is no space before closing punctuation, after opening punctuation, or between Chinese characters.
    Straight quotation marks open and close alternately.
    """
    parts: list[str] = []
    spans: Spans = []
    length, before, is_open = 0, "", False
    for word in words:
        opens = word in _OPENING or (word == '"' and not is_open) or (word == "“" and not is_open)
        closes = (word in ('"', "“") and is_open) or _CLOSING.match(word)
        if word in ('"', "„", "“", "”"):
            is_open = opens
        tight = before in ("", "open", "'") or closes or (before == "wide" and _WIDE.match(word))
        space = "" if tight else " "
        parts.append(space + word)
        spans.append((length + len(space), length + len(space) + len(word)))
        length = spans[-1][1]
        before = "open" if opens else word if word == "'" else "wide" if _WIDE.match(word[-1:]) else "word"
    return "".join(parts), spans

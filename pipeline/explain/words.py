"""Combine the attributions of tokens to attributions of words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.tasks.explaining import Place

# A word is a single character of a script without spaces, a run of letters and digits, or a sign.
_ALONE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A part of a row's text, and its contribution.

    Args:
        column: the column of the row.
        start, end: the characters [start, end) in the column.
        text: these characters; None if they may not be shown.
        first_token, last_token: indices of the first and last token in the model's input.
        attribution: the sum of the attributions of the tokens.
    """

    column: str
    start: int
    end: int
    text: str | None
    first_token: int
    last_token: int
    attribution: float

    @property
    def title(self) -> str:
        """The text, or the token numbers if the text may not be shown."""
        if self.text is not None:
            return self.text
        many = self.first_token != self.last_token
        return f"#{self.first_token}-{self.last_token}" if many else f"#{self.first_token}"


def words_of(
    row: Mapping[str, str], places: Sequence[Place | None], attributions: Sequence[float]
) -> list[Word]:
    """Return the words of a row, in the order of the model's tokens.

    A word ends where both a word of the text and a token end; a token that spans two words joins them.
    Special tokens belong to no word.
    """
    ends = {column: _ends(text) for column, text in row.items()}
    words: list[Word] = []
    for tokens in _groups(places, ends):
        first, last = places[tokens[0]], places[tokens[-1]]
        if first is None or last is None:
            continue
        text = row[first.column][first.start : last.end]
        start = first.start + len(text) - len(text.lstrip())
        words.append(
            Word(
                column=first.column,
                start=start,
                end=max(start, last.end - len(text) + len(text.rstrip())),
                text=text.strip(),
                first_token=tokens[0],
                last_token=tokens[-1],
                attribution=sum(attributions[token] for token in tokens),
            )
        )
    return words


def _ends(text: str) -> set[int]:
    """Return the offsets at which words end; a blank belongs to the word after it."""
    return {match.end() for match in _WORD.finditer(text)} | {len(text)}


def _groups(places: Sequence[Place | None], ends: Mapping[str, set[int]]) -> Iterator[list[int]]:
    """Yield the token indices of each word."""
    group: list[int] = []
    for number, place in enumerate(places):
        if place is None:
            continue
        group.append(number)
        following = places[number + 1] if number + 1 < len(places) else None
        if following is None or following.column != place.column:
            is_last = True
        else:  # a token may be a part of a character that the next token completes
            is_last = place.end in ends[place.column] and following.start >= place.end
        if is_last:
            yield group
            group = []

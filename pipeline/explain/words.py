"""From tokens to words: what the tokens of a word contribute together."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.tasks.explaining import Place

#: Characters of scripts without spaces, each a word by itself; another word is letters and digits, or a sign.
_ALONE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A part of a row's text, and what it contributes.

    Args:
        column: of the row.
        start, end: its characters [start, end) in the column.
        text: these characters; None where they may not be shown.
        first_token, last_token: the tokens, counted from 0, as the model reads them.
        attribution: the sum over the tokens.
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
        """The text, or the numbers of the tokens."""
        if self.text is not None:
            return self.text
        many = self.first_token != self.last_token
        return f"#{self.first_token}-{self.last_token}" if many else f"#{self.first_token}"


def words_of(
    row: Mapping[str, str], places: Sequence[Place | None], attributions: Sequence[float]
) -> list[Word]:
    """The words of a row that the model read, in the order of its tokens.

    A word ends where a word of the text and a token both end; a token that holds parts of two joins them.
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
    """Where words end: a blank belongs to the word after it."""
    return {found.end() for found in _WORD.finditer(text)} | {len(text)}


def _groups(places: Sequence[Place | None], ends: Mapping[str, set[int]]) -> Iterator[list[int]]:
    """The numbers of the tokens of each word."""
    group: list[int] = []
    for number, place in enumerate(places):
        if place is None:
            continue
        group.append(number)
        following = places[number + 1] if number + 1 < len(places) else None
        if following is None or following.column != place.column:
            is_last = True
        else:  # a token may be a part of a character, which the next one goes on with
            is_last = place.end in ends[place.column] and following.start >= place.end
        if is_last:
            yield group
            group = []

"""Mask words of a story, and compute the best possible prediction for each.

Models see tokens, but stories consist of words, and their boundaries differ: a token may contain the space
before its word, or two Chinese characters, and a rare word is several tokens. A `Unit` is the smallest span
of words and tokens that begin and end together, and so can be masked.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from datamodules.storyworld import StoryWorld, split_words
from datamodules.storyworld.chart import Chart, Edge, Filled, Node
from datamodules.storyworld.derivation import Grammar, Move
from datamodules.storyworld.events import State
from datamodules.storyworld.language import Language, language
from datamodules.storyworld.plot import Plot
from datamodules.tokenizer import Tokenizer

SPACE = " "

#: Words that may replace a unit, with their probabilities or proportional weights.
Candidates = dict[tuple[str, ...], float]

#: Words at some positions of a story -> whether they are possible there.
Fits = Callable[[Filled], bool]


class Unit(NamedTuple):
    """Words `first_word` to `end_word` of a story, which are exactly its tokens `first_token` to `end_token`.

    Ends are exclusive.
    """

    first_word: int
    end_word: int
    first_token: int
    end_token: int


def align(words: Sequence[str], token_bytes: Sequence[int]) -> list[Unit]:
    """Split a text into units, given its words and the number of bytes of each token."""
    word_ends = list(accumulate(len(word.encode()) for word in words))
    token_ends = list(accumulate(token_bytes))
    units, first_word, first_token = [], 0, 0
    for end in sorted(set(word_ends) & set(token_ends)):
        end_word, end_token = bisect_left(word_ends, end) + 1, bisect_left(token_ends, end) + 1
        units.append(Unit(first_word, end_word, first_token, end_token))
        first_word, first_token = end_word, end_token
    return units


@dataclass(frozen=True)
class HiddenWords:
    """A story with masked units: `ids` are all its tokens, including those of the units in `hidden`."""

    words: tuple[str, ...]
    ids: tuple[int, ...]
    hidden: tuple[Unit, ...]

    def positions(self, unit: Unit) -> tuple[int, ...]:
        """Return the positions of the words in a unit, without spaces."""
        return tuple(i for i in range(unit.first_word, unit.end_word) if self.words[i] != SPACE)

    def truth(self, unit: Unit) -> tuple[str, ...]:
        """Return the words of a unit."""
        return tuple(self.words[i] for i in self.positions(unit))

    def tokens(self, unit: Unit) -> tuple[int, ...]:
        """Return the tokens of a unit."""
        return self.ids[unit.first_token : unit.end_token]


def hide(text: str, tokenizer: Tokenizer, *, rate: float, random: np.random.Generator) -> HiddenWords:
    """Mask a fraction of the words of a text, at least one, all with equal probability."""
    words, ids = split_words(text), tokenizer.encode(text)
    units = [unit for unit in align(words, tokenizer.token_bytes[ids].tolist()) if _is_word(words, unit)]
    n_hidden = max(1, round(rate * len(units)))
    chosen = sorted(random.choice(len(units), n_hidden, replace=False).tolist())
    return HiddenWords(words, tuple(ids.tolist()), tuple(units[i] for i in chosen))


def _is_word(words: Sequence[str], unit: Unit) -> bool:
    """Return whether a unit is a word, possibly with its space (in Chinese, one or more characters)."""
    inside = [word for word in words[unit.first_word : unit.end_word] if word != SPACE]
    return bool(inside) and all(word[0].isalnum() for word in inside)


def posterior(world: StoryWorld, story: HiddenWords, tokenizer: Tokenizer) -> dict[Unit, Candidates]:
    """Return the exact probability of each candidate for each masked unit, given what a model sees.

    Given are the unmasked tokens, the number of masked ones, and also the word boundaries. So the best
    prediction is the most probable candidate, and no model can be right more often on average.

    Raises:
        ValueError: if no story agrees with the unmasked tokens.
    """
    fits = tokens_fit(story, tokenizer)
    found: dict[Unit, Candidates] = {unit: {} for unit in story.hidden}
    for code, share in world.languages.items():
        chart = UnitChart(Plot(), language(code), story, fits)
        for unit, candidates in chart.hidden_units().items():
            for words, weight in candidates.items():
                found[unit][words] = found[unit].get(words, 0.0) + weight * share
    if not all(found.values()):
        raise ValueError("no story of this world agrees with the words that are not hidden")
    return {unit: _normalised(candidates) for unit, candidates in found.items()}


def _normalised(weights: Candidates) -> Candidates:
    total = sum(weights.values())
    return {words: weight / total for words, weight in weights.items()}


class UnitChart(Chart[State]):
    """A chart in which candidates must be consistent with the unmasked tokens."""

    def __init__(self, grammar: Grammar[State], told_in: Language, story: HiddenWords, fits: Fits) -> None:
        self._fits = fits
        self._positions = {unit: story.positions(unit) for unit in story.hidden}
        hidden = set(chain.from_iterable(self._positions.values()))
        super().__init__(
            grammar, told_in, [None if i in hidden else word for i, word in enumerate(story.words)]
        )

    def _follow(self, move: Move[State], position: int) -> Iterator[Edge[State]]:
        return (edge for edge in super()._follow(move, position) if self._fits(edge.filled))

    def hidden_units(self) -> dict[Unit, Candidates]:
        """Return the candidates for each masked unit, weighted in proportion to their exact probabilities."""
        outside: dict[Node[State], float] = defaultdict(float)
        outside[self._root] = 1.0
        found: dict[Unit, Candidates] = {unit: defaultdict(float) for unit in self._positions}
        # Nodes are added after their successors, so that in reverse order each node follows its predecessors.
        for node in reversed(self._edges):
            for edge in self._edges[node]:
                mass = outside[node] * edge.probability
                outside[edge.to] += mass
                filled = dict(edge.filled)
                for unit, positions in self._positions.items():
                    if positions[0] in filled:
                        words = tuple(filled[i] for i in positions)
                        found[unit][words] += mass * self._inside[edge.to][0]
        return {unit: dict(candidates) for unit, candidates in found.items()}


def tokens_fit(story: HiddenWords, tokenizer: Tokenizer) -> Fits:
    """Return a function that checks whether candidates leave unmasked tokens and unit boundaries unchanged.

    Tokens depend only on the uninterrupted letters around them, so only these are encoded again.
    """
    stretches = _stretches(story.words)
    seen = {i: _seen(story, stretch, tokenizer) for i, stretch in enumerate(stretches)}
    stretch_of = {i: number for number, stretch in enumerate(stretches) for i in stretch}

    @cache
    def stretch_fits(number: int, candidates: Filled) -> bool:
        replaced = dict(candidates)
        words = [replaced.get(i, story.words[i]) for i in stretches[number]]
        return _matches(words, seen[number], tokenizer)

    def fits(filled: Filled) -> bool:
        parts: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for i, word in filled:
            parts[stretch_of[i]].append((i, word))
        return all(stretch_fits(number, tuple(part)) for number, part in parts.items())

    return fits


class _Seen(NamedTuple):
    """A stretch of letters as a model sees it: its tokens, with None for masked ones, and its units."""

    ids: list[int | None]
    units: list[Unit]


def _stretches(words: Sequence[str]) -> list[range]:
    """Return runs of adjacent words, each with the space before it."""
    stretches, first = [], 0
    for i, word in enumerate([*words, SPACE]):
        if not word[0].isalnum():
            if first < i and any(part[0].isalnum() for part in words[first:i]):
                stretches.append(range(first, i))
            first = i if word == SPACE else i + 1
    return stretches


def _seen(story: HiddenWords, stretch: range, tokenizer: Tokenizer) -> _Seen:
    words = [story.words[i] for i in stretch]
    encoded: list[int] = tokenizer.encode("".join(words)).tolist()
    units = align(words, tokenizer.token_bytes[encoded].tolist())
    ids: list[int | None] = [*encoded]
    hidden = {unit.first_word: unit for unit in story.hidden}
    for unit in units:
        if stretch.start + unit.first_word in hidden:
            in_text = story.tokens(hidden[stretch.start + unit.first_word])
            assert in_text == tuple(encoded[unit.first_token : unit.end_token]), "tokens depend on more"
            ids[unit.first_token : unit.end_token] = [None] * (unit.end_token - unit.first_token)
    return _Seen(ids, units)


def _matches(words: Sequence[str], seen: _Seen, tokenizer: Tokenizer) -> bool:
    ids = tokenizer.encode("".join(words)).tolist()
    if len(ids) != len(seen.ids):
        return False
    if any(token != wanted for token, wanted in zip(ids, seen.ids, strict=True) if wanted is not None):
        return False
    return align(words, tokenizer.token_bytes[ids].tolist()) == seen.units


def best(candidates: Candidates) -> tuple[tuple[str, ...], float]:
    """Return the most probable candidate and its probability."""
    return max(candidates.items(), key=lambda candidate: candidate[1])

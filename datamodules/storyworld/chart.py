"""Chart parsing of stories: the probability of a text, and the exact posterior of masked words.

The chart follows the grammar along the text. A node is a state and a position in the text. Nodes reached in
several ways are merged, so that the sum over all derivations is cheap. A masked word matches any word: the
sum is then over every story that agrees with the unmasked words, which is the best that any model can know.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Generic, NamedTuple

from datamodules.storyworld.derivation import Grammar, Move, State
from datamodules.storyworld.language import Hole, Language, Piece

# A Chinese character, a word, or any other character; concatenated, they give the text.
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff_]+|.", re.DOTALL)

Filled = tuple[tuple[int, str], ...]  # (position in the pattern, word) for each masked word
Accepts = Callable[[int, str], bool]


@lru_cache(maxsize=1 << 16)
def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words, Chinese characters, spaces and punctuation, in order, without omissions."""
    return tuple(_WORD.findall(text))


class Node(NamedTuple, Generic[State]):
    """A state with the position in the pattern where its next sentence starts."""

    state: State
    position: int


class Reading(NamedTuple):
    """One way to parse a sentence: its slots, the masked words, its end, and its probability."""

    values: Mapping[str, int]
    filled: Filled
    end: int
    probability: float


class Edge(NamedTuple, Generic[State]):
    """A sentence that matches: its probability, the masked words, and the next node."""

    probability: float
    filled: Filled
    to: Node[State]


class Chart(Generic[State]):
    """All derivations of a pattern (words, with None for masked ones) in one language.

    `accepts(position, word)` may reject candidates for a masked word, for example by their length in tokens.
    """

    def __init__(
        self,
        grammar: Grammar[State],
        language: Language,
        pattern: Sequence[str | None],
        accepts: Accepts | None = None,
    ) -> None:
        self._grammar, self._language, self._accepts = grammar, language, accepts
        self._pattern = pattern
        self._edges: dict[Node[State], list[Edge[State]]] = {}
        self._inside: dict[Node[State], tuple[float, int]] = {}
        self._read: dict[object, list[Reading]] = {}
        self._root = Node(grammar.start, 0)
        self.probability, self.n_derivations = self._visit(self._root)

    def _visit(self, node: Node[State]) -> tuple[float, int]:
        """Return the probability of the rest of the pattern from a node, and its number of derivations."""
        if node in self._inside:
            return self._inside[node]
        moves = self._grammar.expand(node.state)
        probability, n_derivations = (0.0, 0) if moves or node.position < len(self._pattern) else (1.0, 1)
        edges = []
        for move in moves:
            for edge in self._follow(move, node.position):
                below, n = self._visit(edge.to)
                if n:
                    edges.append(edge)
                    probability += edge.probability * below
                    n_derivations += n
        self._edges[node] = edges
        self._inside[node] = probability, n_derivations
        return probability, n_derivations

    def _follow(self, move: Move[State], position: int) -> Iterator[Edge[State]]:
        if not move.kind:
            yield Edge(move.probability, (), Node(move.then(move.bound), position))
            return
        joiner = self._language.joiner if position else ""
        if joiner and (position >= len(self._pattern) or self._pattern[position] != joiner):
            return
        for reading in self._readings(move, position + len(joiner)):
            to = Node(move.then(reading.values), reading.end)
            yield Edge(move.probability * reading.probability, reading.filled, to)

    def _readings(self, move: Move[State], start: int) -> list[Reading]:
        """Return all ways to parse the sentence of a move; cached, since many states share sentences."""
        free = tuple(choice.options for choice in move.free.values())
        key = (move.kind, tuple(move.bound.values()), free, start)
        if key not in self._read:
            n = self._grammar.n_variants(move.kind)
            variants = self._language.sentences[move.kind][:n]
            found = (self._read_as(pieces, move, start, 1 / n) for pieces in variants)
            self._read[key] = list(chain.from_iterable(found))
        return self._read[key]

    def _read_as(self, pieces: Sequence[Piece], move: Move[State], start: int, p: float) -> Iterator[Reading]:
        """Fill the free slots from left to right while the words match the pattern."""
        # the last word so far is kept in `rest`, since the next piece may continue it
        begun = [(Reading(move.bound, (), start, p), "")]
        for piece in pieces:
            longer = []
            for reading, rest in begun:
                for values, text, p_text in _options(piece, reading.values, move):
                    *words, rest_now = split_words(rest + text)
                    agreed = self._agree(words, reading.end, reading.filled)
                    if agreed is not None and self._may_begin(rest_now, reading.end + len(words)):
                        end = reading.end + len(words)
                        longer.append((Reading(values, agreed, end, reading.probability * p_text), rest_now))
            begun = longer
        for reading, rest in begun:
            agreed = self._agree([rest], reading.end, reading.filled)
            if agreed is not None:
                yield reading._replace(filled=agreed, end=reading.end + 1)

    def _agree(self, words: Sequence[str], position: int, filled: Filled) -> Filled | None:
        """Return the masked words, including those of `words`; None if `words` do not match the pattern."""
        if position + len(words) > len(self._pattern):
            return None
        for i, word in enumerate(words, position):
            expected = self._pattern[i]
            if expected is None:
                if not word[0].isalnum() or (self._accepts is not None and not self._accepts(i, word)):
                    return None
                filled = (*filled, (i, word))
            elif expected != word:
                return None
        return filled

    def _may_begin(self, rest: str, position: int) -> bool:
        if position >= len(self._pattern):
            return False
        expected = self._pattern[position]
        return expected.startswith(rest) if expected is not None else rest[0].isalnum()

    def masked_words(self) -> dict[int, dict[str, float]]:
        """Return the candidates for each masked position, weighted in proportion to their probabilities."""
        outside: dict[Node[State], float] = defaultdict(float)
        outside[self._root] = 1.0
        found: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        # nodes are added after their successors, so that in reverse order each node follows its predecessors
        for node in reversed(self._edges):
            for edge in self._edges[node]:
                mass = outside[node] * edge.probability
                outside[edge.to] += mass
                for position, word in edge.filled:
                    found[position][word] += mass * self._inside[edge.to][0]
        return {position: dict(words) for position, words in found.items()}


def _options(
    piece: Piece, values: Mapping[str, int], move: Move[State]
) -> Iterator[tuple[Mapping[str, int], str, float]]:
    if not isinstance(piece, Hole):
        yield values, piece, 1.0
    elif piece.slot in values:
        yield values, piece.words[values[piece.slot]], 1.0
    else:
        choice = move.free[piece.slot]
        for option in choice.options:
            yield {**values, piece.slot: option}, piece.words[option], choice.probability


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weights divided by their sum."""
    total = sum(weights.values())
    return {word: weight / total for word, weight in weights.items()}

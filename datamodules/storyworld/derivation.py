"""Draw stories from a grammar, or enumerate all of them with their probabilities.

A story is a walk through states. `expand(state)` returns the possible moves with their probabilities. A move
is a sentence, whose variant and free slots are independent choices, and the next state. So the probability of
a walk is the product of the probabilities p of its choices, and its information in bits is the sum of -log2
p.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from math import log2
from random import Random
from typing import Generic, NamedTuple, Protocol, TypeVar

from datamodules.storyworld.language import Line

State = TypeVar("State")


class Choice:
    """A choice among ids with equal probability."""

    __slots__ = ("bits", "options", "probability")

    def __init__(self, options: tuple[int, ...]) -> None:
        self.options = options
        self.probability = 1.0 / len(options)
        self.bits = log2(len(options))


@lru_cache(maxsize=1 << 16)
def choose(n: int, excluded: frozenset[int] = frozenset()) -> Choice:
    """Return the choice among 0..n-1 without the excluded ids."""
    return Choice(tuple(option for option in range(n) if option not in excluded))


class Move(NamedTuple, Generic[State]):
    """A move from a state: with this probability, a sentence of this kind, then the next state.

    `bound` has the slots that the state determines, and `free` the choices of the others; `then` maps the
    values of all slots to the next state. A move of kind "" has no sentence.
    """

    probability: float
    kind: str
    bound: Mapping[str, int]
    free: Mapping[str, Choice]
    then: Callable[[Mapping[str, int]], State]


class Grammar(Protocol[State]):
    """The interface of a story grammar: a first state, moves from each state, and variants of sentences."""

    @property
    def start(self) -> State:
        """The state in which every story begins."""
        ...

    def expand(self, state: State) -> list[Move[State]]:
        """Return the possible moves from a state; empty at the end."""
        ...

    def n_variants(self, kind: str) -> int:
        """Return the number of equally likely variants of a kind of sentence."""
        ...


class Story(NamedTuple, Generic[State]):
    """A derivation: the sentences, the state after each, and the information in bits."""

    lines: list[Line]
    states: list[State]
    bits: float


def draw(grammar: Grammar[State], random: Random) -> Story[State]:
    """Draw a story."""
    uniform = random.random
    state, lines, states, bits = grammar.start, [], [], 0.0
    probability = 1.0
    while moves := grammar.expand(state):
        move = moves[0] if len(moves) == 1 else _pick(moves, uniform())
        probability *= move.probability
        values = dict(move.bound)
        for slot, choice in move.free.items():
            values[slot] = choice.options[int(uniform() * len(choice.options))]
            bits += choice.bits
        state = move.then(values)
        if move.kind:
            n = grammar.n_variants(move.kind)
            probability /= n
            lines.append(Line(move.kind, int(uniform() * n), values))
            states.append(state)
    return Story(lines, states, bits - log2(probability))


def _pick(moves: list[Move[State]], point: float) -> Move[State]:
    for move in moves:
        point -= move.probability
        if point < 0:
            return move
    return moves[-1]


def stories(grammar: Grammar[State]) -> Iterator[tuple[list[Line], float]]:
    """Yield every derivation of a (small) grammar with its probability, to verify `draw`."""
    stack: list[tuple[State, tuple[Line, ...], float]] = [(grammar.start, (), 1.0)]
    while stack:
        state, lines, probability = stack.pop()
        moves = grammar.expand(state)
        if not moves:
            yield list(lines), probability
        for move in moves:
            for values, p in _fillings(move):
                following, p_move = move.then(values), probability * p
                if not move.kind:
                    stack.append((following, lines, p_move))
                    continue
                n = grammar.n_variants(move.kind)
                stack += [(following, (*lines, Line(move.kind, i, values)), p_move / n) for i in range(n)]


def _fillings(move: Move[State]) -> Iterator[tuple[dict[str, int], float]]:
    probability = move.probability
    for choice in move.free.values():
        probability *= choice.probability
    for options in product(*(choice.options for choice in move.free.values())):
        yield {**move.bound, **dict(zip(move.free, options, strict=True))}, probability

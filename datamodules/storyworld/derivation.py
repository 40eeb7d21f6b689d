"""Choices, and the two things done with them: draw a story, or list every story with its probability.

A story is a walk through states. `expand(state)` gives the moves open there, each with its probability; a
move is a sentence whose variant and free slots are independent choices, and the state that follows. So the
probability of a walk is a product over its choices, and its information in bits is the sum of their -log2 p.
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
    """Some ids with equal probability."""

    __slots__ = ("bits", "options", "probability")

    def __init__(self, options: tuple[int, ...]) -> None:
        self.options = options
        self.probability = 1.0 / len(options)
        self.bits = log2(len(options))


@lru_cache(maxsize=1 << 16)
def choose(n: int, excluded: frozenset[int] = frozenset()) -> Choice:
    """Any of 0..n-1 but the excluded."""
    return Choice(tuple(option for option in range(n) if option not in excluded))


class Move(NamedTuple, Generic[State]):
    """One way on from a state: with this probability, a sentence of this kind, then the next state.

    `bound` are the slots the state has decided; `free` are chosen in the sentence; `then` takes all of them
    to the next state. A move of kind "" says nothing.
    """

    probability: float
    kind: str
    bound: Mapping[str, int]
    free: Mapping[str, Choice]
    then: Callable[[Mapping[str, int]], State]


class Grammar(Protocol[State]):
    """What a story grammar offers: a first state, the moves from any state, the variants of a sentence."""

    @property
    def start(self) -> State:
        """Where every story begins."""
        ...

    def expand(self, state: State) -> list[Move[State]]:
        """The moves open in a state; none at the end."""
        ...

    def n_variants(self, kind: str) -> int:
        """How many equally likely ways there are to say a sentence of this kind."""
        ...


class Story(NamedTuple, Generic[State]):
    """A derivation: its sentences, the state after each, and its information in bits."""

    lines: list[Line]
    states: list[State]
    bits: float


def draw(grammar: Grammar[State], random: Random) -> Story[State]:
    """Walk once through the grammar with this source of randomness."""
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
    """Every derivation of a (small) grammar with its probability: the slow truth behind `draw`."""
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

"""The events: the steps of a plan, and how each changes who has what and who is where.

  T the wished-for thing is given away    D it is left behind    F it is found    C it is carried to a place
  U the other thing is given away         W somebody takes a walk

The last step that can decide the wish grants it with probability 1/2, earlier ones with P_EARLY.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from datamodules.storyworld.concepts import DOMAINS, N_ADJECTIVES, N_ROLES
from datamodules.storyworld.derivation import Choice, Move, choose

_FULL_SIZES = {"role": N_ROLES, "adjective": N_ADJECTIVES, **DOMAINS}

Wish = Literal["self", "other", "place"]
Values = Mapping[str, int]

P_EARLY = 1 / 3


class State(NamedTuple):
    """Everything that determines how a story may continue.

    people, at: the three people (hero first) and their places.
    things: those of the hero and of the friend.
    held: for each thing, the index (0..2) of its holder, or -1 - place if nobody has it.
    wish, main, target: the kind of wish, the thing (0 or 1), and the index of a person or a place.
    plan: the remaining steps.
    p_granted: the probability, given the plan, that the wish is granted now.
    spoken: giver and receiver of the last sentence, until somebody speaks.
    """

    stage: str
    people: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    things: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    wish: Wish = "self"
    main: int = 0
    target: int = 0
    plan: str = ""
    p_granted: float = 0.0
    spoken: tuple[int, int] | None = None

    def place_of(self, thing: int) -> int:
        """Return where a thing (0 or 1) is."""
        holder = self.held[thing]
        return self.at[holder] if holder >= 0 else -1 - holder

    @property
    def granted(self) -> bool:
        """Whether the wish is granted now."""
        if self.wish == "place":
            return self.place_of(self.main) == self.target
        return self.held[self.main] == self.target

    @property
    def avoided(self) -> tuple[int, ...]:
        """Places that nobody walks to, so that nobody meets by chance, and no wish comes true by chance.

        Then possible events and their words do not depend on who has what, and reveal nothing about the
        outcome.
        """
        lying = [-1 - holder for holder in self.held if holder < 0]
        return (*self.at, *lying, self.target) if self.wish == "place" else (*self.at, *lying)


Moves = list[Move[State]]


@dataclass(frozen=True)
class World:
    """The number of concepts in each domain; a smaller world uses fewer of them."""

    sizes: Mapping[str, int] = field(default_factory=dict)

    def n(self, domain: str) -> int:
        """Return the number of concepts in a domain."""
        return self.sizes.get(domain, _FULL_SIZES[domain])

    def choose(self, domain: str, excluded: tuple[int, ...] = ()) -> Choice:
        """Return the choice among the concepts of a domain without the excluded ones."""
        return choose(self.n(domain), frozenset(excluded))


def event(world: World, state: State) -> Moves:
    """Return the possible moves for the next step of the plan."""
    return _STEPS[state.plan[0]](world, state._replace(stage="pause", plan=state.plan[1:]))


def _put(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _always(following: State) -> Callable[[Values], State]:
    return lambda v: following


def _moved(state: State, person: int, slot: str) -> Callable[[Values], State]:
    return lambda v: state._replace(at=_put(state.at, person, v[slot]))


def _p_target(state: State, deciding: str) -> float:
    """Return the probability that this step grants the wish, if it is not granted before."""
    if any(step in deciding for step in state.plan):
        return P_EARLY
    return 0.5 / (1 - state.p_granted)


def _give(world: World, state: State, thing: int, receivers: Mapping[int, float]) -> Moves:
    """Return moves in which the holder gives the thing to a receiver; one of the two visits the other."""
    giver = state.held[thing]
    away = {"r": world.choose("place", state.avoided)}
    moves: Moves = []
    for receiver, p in receivers.items():
        bound = {"a": state.people[giver], "b": state.people[receiver], "T": state.things[thing]}
        given = state._replace(held=_put(state.held, thing, receiver), spoken=(giver, receiver))
        free = {**away, "way": world.choose("way")}
        moves.append(
            Move(p / 2, "bring", {**bound, "q": state.at[receiver]}, free, _moved(given, giver, "r"))
        )
        free = {**away, "how": world.choose("manner")}
        moves.append(
            Move(p / 2, "fetch", {**bound, "p": state.at[giver]}, free, _moved(given, receiver, "r"))
        )
    return moves


def _give_main(world: World, state: State) -> Moves:
    giver, target = state.held[state.main], state.target
    others = [person for person in range(3) if person != giver]
    if state.wish == "place":
        return _give(world, state, state.main, {3 - giver: 1.0})  # the hero, person 0, never has it
    p = _p_target(state, "TF")
    after = state._replace(p_granted=(1 - state.p_granted) * p)
    receivers = {person: p if person == target else 1 - p for person in others}
    return _give(world, after, state.main, receivers if giver != target else dict.fromkeys(others, 0.5))


def _give_other(world: World, state: State) -> Moves:
    other = 1 - state.main
    return _give(world, state, other, {person: 0.5 for person in range(3) if person != state.held[other]})


def _drop(world: World, state: State) -> Moves:
    loser = state.held[state.main]
    p = state.at[loser]
    bound = {"a": state.people[loser], "T": state.things[state.main], "p": p}
    lying = state._replace(held=_put(state.held, state.main, -1 - p))
    free = {"q": world.choose("place", state.avoided), "mood": world.choose("mood")}
    return [Move(1.0, "drop", bound, free, _moved(lying, loser, "q"))]


def _find(world: World, state: State) -> Moves:
    place, target = state.place_of(state.main), state.target
    if state.wish == "place":
        finders = {1: 0.5, 2: 0.5}
    else:
        p_target = P_EARLY if any(step in "TF" for step in state.plan) else 0.5
        finders = {person: p_target if person == target else (1 - p_target) / 2 for person in range(3)}
        state = state._replace(p_granted=p_target)
    moves: Moves = []
    for finder, p in finders.items():
        bound = {"b": state.people[finder], "T": state.things[state.main], "p": place}
        found = state._replace(held=_put(state.held, state.main, finder), at=_put(state.at, finder, place))
        moves.append(Move(p, "find", bound, {}, _always(found)))
    return moves


def _carry(world: World, state: State) -> Moves:
    carrier = state.held[state.main]
    bound = {"a": state.people[carrier], "T": state.things[state.main]}
    way, here = world.choose("way"), state.at[carrier]
    p = _p_target(state, "C")
    after = state._replace(p_granted=(1 - state.p_granted) * p)
    then = _moved(after, carrier, "q")
    elsewhere = {"q": world.choose("place", state.avoided), "way": way}
    if here == state.target:
        return [Move(1.0, "carry", bound, elsewhere, then)]
    there = Move(p, "carry", {**bound, "q": state.target}, {"way": way}, then)
    return [there, Move(1 - p, "carry", bound, elsewhere, then)]


def _walk(world: World, state: State) -> Moves:
    holder = state.held[state.main]
    walkers = [person for person in range(3) if state.wish != "place" or person != holder]
    moves: Moves = []
    for walker in walkers:
        free = {"q": world.choose("place", state.avoided), "way": world.choose("way")}
        bound = {"a": state.people[walker]}
        moves.append(Move(1 / len(walkers), "walk", bound, free, _moved(state, walker, "q")))
    return moves


_STEPS: Mapping[str, Callable[[World, State], Moves]] = {
    "T": _give_main,
    "U": _give_other,
    "D": _drop,
    "F": _find,
    "C": _carry,
    "W": _walk,
}

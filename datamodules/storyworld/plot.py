"""The plot: who is introduced, what is wished for, what happens, and how it ends.

There are three people and two things. The hero wishes to have a thing, or that somebody else has it, or that
it gets to a place. A hidden plan, which is a string of steps, determines what happens but not to whom (see
events.py). For every plan, the wish comes true with probability 1/2, so that the outcome of a story does not
depend on its words but only on who has what.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from datamodules.storyworld.concepts import N_ADJECTIVES, N_ROLES
from datamodules.storyworld.derivation import Choice, Move
from datamodules.storyworld.events import Moves, State, Values, World, event
from datamodules.storyworld.language import language

PERSON_PLANS = (
    "TT", "DF", "TDF", "DFT", "UDF", "DUF", "DFU", "WDF", "DWF", "DFW", "TWT", "WTT", "TTW",
)  # fmt: skip
PLACE_PLANS = ("TC", "CC", "WC", "UC", "CW", "WCC", "CWC", "UCC", "TCC", "TCW", "DFC")

SHORT_PLAN_WEIGHT = 10  # how many times as likely a plan of two steps is as one of three
P_SPEECH = 0.3
P_NATURE = 0.4
P_CLOSING = 0.5


@lru_cache(maxsize=1 << 14)
def _pairs(n_first: int, n_second: int, second_size: int, excluded: tuple[int, ...]) -> Choice:
    """Return the choice among ids `first * second_size + second` whose first part is not excluded."""
    firsts = [first for first in range(n_first) if first not in excluded]
    return Choice(tuple(first * second_size + second for first in firsts for second in range(n_second)))


@dataclass(frozen=True)
class Plot:
    """The story grammar. The default is the whole world; tests use smaller ones that can be enumerated."""

    world: World = field(default_factory=World)
    person_plans: tuple[str, ...] = PERSON_PLANS
    place_plans: tuple[str, ...] = PLACE_PLANS
    most_variants: int = 1000
    start: State = field(default_factory=lambda: State("opening"))

    @cached_property
    def _variants(self) -> dict[str, int]:
        sentences = language("en").sentences
        return {kind: min(len(variants), self.most_variants) for kind, variants in sentences.items()}

    def n_variants(self, kind: str) -> int:
        """Return the number of equally likely variants of a kind of sentence."""
        return self._variants[kind]

    def expand(self, state: State) -> Moves:
        """Return the possible moves from a state; empty at the end."""
        return _STAGES[state.stage](self, state)

    def someone(self, state: State) -> Choice:
        """Return the choice of a person, with a trade, who is not in the story yet."""
        return _pairs(self.world.n("person"), self.world.n("role"), N_ROLES, state.people)

    def item(self, state: State) -> Choice:
        """Return the choice of a thing, with an adjective, that is not in the story yet."""
        return _pairs(self.world.n("thing"), self.world.n("adjective"), N_ADJECTIVES, state.things)


def _opening(plot: Plot, state: State) -> Moves:
    world = plot.world
    free = {"when": world.choose("when"), "who": plot.someone(state), "p": world.choose("place"),
            "item": plot.item(state)}  # fmt: skip

    def then(v: Values) -> State:
        return State("friend", (v["who"] // N_ROLES,), (v["p"],), (v["item"] // N_ADJECTIVES,), (0,))

    return [Move(1.0, "opening", {}, free, then)]


def _friend(plot: Plot, state: State) -> Moves:
    free = {"who": plot.someone(state), "p": plot.world.choose("place", state.at), "item": plot.item(state)}

    def then(v: Values) -> State:
        people, at = (*state.people, v["who"] // N_ROLES), (*state.at, v["p"])
        return State("third", people, at, (*state.things, v["item"] // N_ADJECTIVES), (0, 1))

    return [Move(1.0, "friend", {}, free, then)]


def _third(plot: Plot, state: State) -> Moves:
    free = {
        "who": plot.someone(state),
        "p": plot.world.choose("place", state.at),
        "doing": plot.world.choose("pastime"),
    }

    def then(v: Values) -> State:
        people, at = (*state.people, v["who"] // N_ROLES), (*state.at, v["p"])
        return state._replace(stage="wish", people=people, at=at)

    return [Move(1.0, "third", {}, free, then)]


def _wish(plot: Plot, state: State) -> Moves:
    hero = state.people[0]

    def to(**changes: object) -> Callable[[Values], State]:
        following = state._replace(stage="plan", **changes)  # type: ignore[arg-type]
        return lambda v: following

    moves: Moves = []
    if plot.person_plans:
        mine = {"h": hero, "T": state.things[1]}
        moves.append(Move(0.4, "wish_self", mine, {}, to(wish="self", main=1, target=0)))
        for main, friend in ((0, 1), (0, 2), (1, 2)):
            bound = {"h": hero, "b": state.people[friend], "T": state.things[main]}
            then = to(wish="other", main=main, target=friend)
            moves.append(Move(0.12, "wish_other", bound, {}, then))
    if plot.place_plans:
        free = {"p": plot.world.choose("place", state.at)}
        moves.append(Move(0.24, "wish_place", {"h": hero, "T": state.things[1]}, free, _to_place(state)))
    total = sum(move.probability for move in moves)
    return [move._replace(probability=move.probability / total) for move in moves]


def _to_place(state: State) -> Callable[[Values], State]:
    return lambda v: state._replace(stage="plan", wish="place", main=1, target=v["p"])


def _plan(plot: Plot, state: State) -> Moves:
    plans = plot.place_plans if state.wish == "place" else plot.person_plans
    weights = [SHORT_PLAN_WEIGHT if len(plan) == 2 else 1 for plan in plans]
    total = sum(weights)
    return [
        Move(w / total, "", {}, {}, _with_plan(state, plan)) for w, plan in zip(weights, plans, strict=True)
    ]


def _with_plan(state: State, plan: str) -> Callable[[Values], State]:
    return lambda v: state._replace(stage="event", plan=plan)


def _silent(probability: float, following: State) -> Move[State]:
    return Move(probability, "", {}, {}, lambda v: following)


def _event(plot: Plot, state: State) -> Moves:
    return event(plot.world, state) if state.plan else _ending(state)


def _pause(plot: Plot, state: State) -> Moves:
    """Return the moves after an event: giver or receiver may speak, or something in nature may happen."""
    after = state._replace(stage="event", spoken=None)
    if state.spoken is None:
        free = {
            "who": plot.world.choose("animal"),
            "did": plot.world.choose("act"),
            "where": plot.world.choose("spot"),
        }
        return [Move(P_NATURE, "nature", {}, free, lambda v: after), _silent(1 - P_NATURE, after)]
    giver, receiver = state.people[state.spoken[0]], state.people[state.spoken[1]]
    return [
        Move(P_SPEECH / 2, "giver_says", {"a": giver}, {}, lambda v: after),
        Move(P_SPEECH / 2, "receiver_says", {"a": giver, "b": receiver}, {}, lambda v: after),
        _silent(1 - P_SPEECH, after),
    ]


def _ending(state: State) -> Moves:
    hero, thing = state.people[0], state.things[state.main]
    bound = {"h": hero, "T": thing}
    holder = state.held[state.main]
    if state.wish == "place":
        kind, bound["p"] = (
            ("end_place_true" if state.granted else "end_place_false"),
            state.place_of(state.main),
        )
    elif state.granted:
        kind = f"end_{state.wish}_true"
        if state.wish == "other":
            bound["b"] = state.people[state.target]
    elif holder == 0:
        kind = "end_false_own"
    else:
        kind, bound["c"] = "end_false", state.people[holder]
    return [Move(1.0, kind, bound, {}, lambda v: state._replace(stage="closing"))]


def _closing(plot: Plot, state: State) -> Moves:
    end = State("end")
    kind, bound = ("close_true", {}) if state.granted else ("close_false", {"h": state.people[0]})
    return [
        Move(P_CLOSING, kind, bound, {"treat": plot.world.choose("treat")}, lambda v: end),
        _silent(1 - P_CLOSING, end),
    ]


def _end(plot: Plot, state: State) -> Moves:
    return []


_STAGES: Mapping[str, Callable[[Plot, State], Moves]] = {
    "opening": _opening,
    "friend": _friend,
    "third": _third,
    "wish": _wish,
    "plan": _plan,
    "event": _event,
    "pause": _pause,
    "closing": _closing,
    "end": _end,
}

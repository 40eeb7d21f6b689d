from collections import defaultdict
from itertools import product
from math import prod
from random import Random

import pytest

from datamodules.storyworld.derivation import Story, draw
from datamodules.storyworld.events import State
from datamodules.storyworld.language import Line, language
from datamodules.storyworld.plot import PERSON_PLANS, PLACE_PLANS, Plot
from datamodules.storyworld.views import Tale, summary
from tests.datamodules.storyworld.small import events_only


def replay(lines: list[Line]) -> tuple[dict[int, int], dict[int, int]]:
    """The slow truth: read sentence by sentence who has a thing (thing -> person) and who is where."""
    holder: dict[int, int] = {}
    at: dict[int, int] = {}
    for line in lines:
        v = line.values
        if line.kind in ("opening", "friend", "third"):
            person = v["who"] // 10
            at[person] = v["p"]
            if "item" in v:
                holder[v["item"] // 8] = person
        elif line.kind in ("bring", "fetch"):
            assert holder[v["T"]] == v["a"]
            assert at[v["b"] if line.kind == "bring" else v["a"]] == v["q" if line.kind == "bring" else "p"]
            holder[v["T"]] = v["b"]
            at[v["a"] if line.kind == "bring" else v["b"]] = v["r"]
        elif line.kind == "drop":
            assert holder.pop(v["T"]) == v["a"]
            assert at[v["a"]] == v["p"]
            at[v["a"]] = v["q"]
        elif line.kind == "find":
            assert v["T"] not in holder
            holder[v["T"]] = v["b"]
            at[v["b"]] = v["p"]
        elif line.kind == "carry":
            assert holder[v["T"]] == v["a"]
            at[v["a"]] = v["q"]
        elif line.kind == "walk":
            at[v["a"]] = v["q"]
    return holder, at


def _drawn(n: int) -> list[Story[State]]:
    return [draw(Plot(), Random(seed)) for seed in range(n)]


def _outcome(story: Story[State]) -> State:
    return Tale(story, language("en"), 0.0).outcome


def test_the_state_agrees_with_reading_the_sentences_one_by_one() -> None:
    for story in _drawn(250):
        holder, at = replay(story.lines)
        state = _outcome(story)
        for thing, concept in enumerate(state.things):
            assert state.people[state.held[thing]] == holder[concept]
            assert state.place_of(thing) == at[holder[concept]]
        assert dict(zip(state.people, state.at, strict=True)) == at


def test_the_ending_tells_what_has_happened() -> None:
    for story in _drawn(250):
        holder, at = replay(story.lines)
        ending = next(line for line in story.lines if line.kind.startswith("end_"))
        v, has_it = ending.values, holder[ending.values["T"]]
        if "place" in ending.kind:
            assert at[has_it] == v["p"]
        else:
            assert has_it == v.get("c", v.get("b", v["h"]))
        assert _outcome(story).granted == ending.kind.endswith("_true")


def test_nobody_is_where_another_is_unless_brought_there() -> None:
    for story in _drawn(200):
        for state in story.states:
            if state.stage in ("event", "pause"):
                assert len(set(state.at)) == 3


Outcomes = dict[tuple[tuple[str, ...], bool], float]


def _outcomes(plot: Plot, state: State, known: dict[State, Outcomes]) -> Outcomes:
    """Exact probability of each sequence of kinds of sentences from here to the ending, with the outcome."""
    if state in known:
        return known[state]
    found: Outcomes = defaultdict(float)
    if state.stage == "event" and not state.plan:
        found[(), state.granted] = 1.0
    else:
        for move in plot.expand(state):
            for options in product(*(choice.options for choice in move.free.values())):
                following = move.then({**move.bound, **dict(zip(move.free, options, strict=True))})
                p = move.probability / prod(len(choice.options) for choice in move.free.values())
                for (kinds, granted), p_rest in _outcomes(plot, following, known).items():
                    found[(move.kind, *kinds), granted] += p * p_rest
    known[state] = found
    return found


@pytest.mark.parametrize("plan", PERSON_PLANS + PLACE_PLANS)
def test_no_sequence_of_kinds_of_sentences_tells_the_outcome(plan: str) -> None:
    """Exactly, not by sampling: whatever kinds of sentences a plan leads to, the wish is a fair coin."""
    plot = events_only(plan, place=5)
    outcomes = _outcomes(plot, plot.start, {})
    assert sum(outcomes.values()) == pytest.approx(1.0)
    for kinds, granted in list(outcomes):
        assert outcomes[kinds, granted] == pytest.approx(outcomes[kinds, not granted]), kinds


def test_the_summary_says_who_has_it_where() -> None:
    for story in _drawn(200):
        holder, at = replay(story.lines)
        v = summary(_outcome(story)).values
        has_it = holder[v["T"]]
        assert v.get("q", v["p"]) == at[has_it]
        if "c" in v:
            assert v["c"] == has_it

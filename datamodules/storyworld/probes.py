"""Probes of language models for the world's English: minimal pairs of sentences, and endings to predict.

Each function returns the rows of a probe; row i depends only on (seed, i). The stories are those of the test
split.

Source: minimal pairs: Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English";
endings that depend on the whole story: Paperno et al. 2016, "The LAMBADA dataset".
"""

import re
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

from datamodules.storyworld.concepts import N_PEOPLE, SEXES
from datamodules.storyworld.language import Hole, Language, Line, language
from datamodules.storyworld.views import Tale
from datamodules.storyworld.world import StoryWorld

Row = dict[str, Any]

#: The beginning of each last sentence that continues with the person who has the wished-for thing.
_CUES = {
    "end_self_true": "In the end",
    "end_other_true": "In the end",
    "end_false": "But in the end",
    "end_false_own": "But in the end",
}

_ARTICLE = re.compile(r"\b([Aa])(n?)(?= [a-z])")


def pronouns(n_rows: int, seed: int = 0) -> list[Row]:
    """Return stories up to a sentence with a pronoun, as `good`; `bad` has the other pronoun."""
    return list(islice(_pairs(_with_other_pronouns, seed), n_rows))


def articles(n_rows: int, seed: int = 0) -> list[Row]:
    """Return stories up to a sentence with an indefinite article, as `good`; `bad` exchanges a and an."""
    return list(islice(_pairs(_with_other_article, seed), n_rows))


def endings(n_rows: int, seed: int = 0) -> list[Row]:
    """Return stories up to their ending; of the people with these `names`, `label` has the thing."""
    return list(islice(_endings(seed), n_rows))


def stories(n_rows: int, seed: int = 0) -> list[Row]:
    """Return whole stories as `text`, to measure bits per byte."""
    return [{"text": tale.language.tell(tale.story.lines)} for tale in islice(_tales(seed), n_rows)]


def _tales(seed: int) -> Iterator[Tale]:
    world = StoryWorld(seed=seed, languages={"en": 1})
    return (world.tale("test", i) for i in count())


def _pairs(make_wrong: Callable[[Language, Line], str | None], seed: int) -> Iterator[Row]:
    """Yield, for each story that has one, the first sentence after the opening that can be made wrong."""
    for tale in _tales(seed):
        lines = tale.story.lines
        for place in range(1, len(lines)):
            bad = make_wrong(tale.language, lines[place])
            if bad is not None:
                yield {
                    "context": tale.language.tell(lines[:place]),
                    "good": tale.language.say(lines[place]),
                    "bad": bad,
                }
                break


def _with_other_pronouns(spoken: Language, line: Line) -> str | None:
    """Return the sentence with all pronouns exchanged (he and she), or None if it has none."""
    other = {person: SEXES.index("m" if SEXES[person] == "f" else "f") for person in range(N_PEOPLE)}
    pieces = spoken.sentences[line.kind][line.variant]
    said = [
        piece
        if isinstance(piece, str)
        else piece.words[other.get(line.values[piece.slot], 0)]
        if _is_pronoun(piece, spoken)
        else piece.words[line.values[piece.slot]]
        for piece in pieces
    ]
    bad = "".join(said)
    return None if bad == spoken.say(line) else bad


def _is_pronoun(hole: Hole, spoken: Language) -> bool:
    forms = ("he", "him", "his", "self")
    return any(
        hole.words == tuple(spoken.word("person", person, form) for person in range(N_PEOPLE))
        for form in forms
    )


def _with_other_article(spoken: Language, line: Line) -> str | None:
    """Return the sentence with its first indefinite article exchanged (a and an), or None if it has none."""
    bad, n_changed = _ARTICLE.subn(
        lambda found: found[1] + ("" if found[2] else "n"), spoken.say(line), count=1
    )
    return bad if n_changed else None


def _endings(seed: int) -> Iterator[Row]:
    english = language("en")
    for tale in _tales(seed):
        end = tale.story.lines[len(tale.body)]
        if end.kind not in _CUES:
            continue
        state = tale.outcome
        names = [english.word("person", person, "name") for person in state.people]
        yield {
            "context": f"{english.tell(tale.body)} {_CUES[end.kind]}",
            "names": names,
            "label": state.held[state.main],
        }

"""The views: one tale as a row for pretraining, classification, questions, translation, summary, dialogue."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from random import Random
from typing import Any, Literal, NamedTuple

from datamodules.storyworld.concepts import DOMAINS, SIGNATURES
from datamodules.storyworld.derivation import Story
from datamodules.storyworld.events import State
from datamodules.storyworld.language import CODES, Code, Language, Line, language

View = Literal["story", "classify", "qa", "translate", "summarize", "chat"]
Split = Literal["train", "validation", "test"]
Row = dict[str, Any]

LABELS = ("unfulfilled", "fulfilled")
N_PEOPLE = 3  # they are introduced by the first sentences, one each
HELD_OUT_SHARE = 8  # one in so many short excerpts is not for training: half validation, half test

COLUMNS: dict[View, tuple[str, ...]] = {
    "story": ("text", "language", "bits"),
    "classify": ("text", "label", "language"),
    "qa": ("id", "context", "language", "question", "answers"),
    "translate": ("source", "target", "source_language", "target_language", *CODES),
    "summarize": ("text", "summary", "language"),
    "chat": ("turns", "language"),
}
"""What the rows of each view have."""


class Tale(NamedTuple):
    """A story in a language, and the information in bits of both choices together."""

    story: Story[State]
    language: Language
    bits: float

    @property
    def body(self) -> list[Line]:
        """The sentences before the one that tells how it ended."""
        lines = self.story.lines
        return lines[: next(i for i, line in enumerate(lines) if line.kind.startswith("end_"))]

    @property
    def outcome(self) -> State:
        """The state when everything has happened."""
        return self.story.states[len(self.body) - 1]


def story(tale: Tale) -> Row:
    """The text with its exact information: mean bits over mean bytes is the best bits per byte."""
    text = tale.language.tell(tale.story.lines)
    return {"text": text, "language": tale.language.code, "bits": tale.bits}


def classify(tale: Tale) -> Row:
    """The story without its ending; the label is whether the wish has come true."""
    text = tale.language.tell(tale.body)
    return {"text": text, "label": LABELS[tale.outcome.granted], "language": tale.language.code}


class Question(NamedTuple):
    """A question, its answer as a sentence and as one concept of a domain."""

    ask: str
    say: str
    values: Mapping[str, int]
    domain: str
    answer: int


def questions(state: State, lines: list[Line]) -> list[Question]:
    """All that may be asked about a story so far: places of things and people, holders, first places."""
    asked: list[Question] = []
    for thing, concept in enumerate(state.things):
        place, holder = state.place_of(thing), state.held[thing]
        where = {"T": concept, "p": place}
        asked.append(Question("ask_where_thing", "say_where_thing", where, "place", place))
        if holder >= 0:  # else it lies somewhere
            person = state.people[holder]
            has = {"T": concept, "a": person}
            asked.append(Question("ask_who_has", "say_who_has", has, "person", person))
    for person, place, line in zip(state.people, state.at, lines, strict=False):
        first = line.values["p"]
        asked.append(
            Question("ask_where_person", "say_where_person", {"a": person, "p": place}, "place", place)
        )
        asked.append(
            Question("ask_first_place", "say_first_place", {"a": person, "p": first}, "place", first)
        )
    return asked


def _variant(tale: Tale, kind: str, values: Mapping[str, int], random: Random) -> str:
    n = len(tale.language.sentences[kind])
    return tale.language.say(Line(kind, int(random.random() * n), values))


def qa(tale: Tale, random: Random, unanswerable: float) -> Row:
    """The beginning of a story, a question on the state there, and the last place where its answer stands."""
    lines = tale.body[: random.randint(N_PEOPLE, len(tale.body))]
    state = tale.story.states[len(lines) - 1]
    context = tale.language.tell(lines)
    row: Row = {"context": context, "language": tale.language.code}
    if random.random() < unanswerable:
        absent = [thing for thing in range(DOMAINS["thing"]) if thing not in state.things]
        kind = random.choice(("ask_where_thing", "ask_who_has"))
        question = _variant(tale, kind, {"T": random.choice(absent)}, random)
        return row | {"question": question, "answers": {"text": [], "answer_start": []}}
    chosen = random.choice(questions(state, lines))
    form = "name" if chosen.domain == "person" else "noun"
    answer = tale.language.word(chosen.domain, chosen.answer, form)
    starts = [m.start() for m in re.finditer(_whole_word(answer, tale.language.code), context)]
    start = starts[0] if chosen.ask == "ask_first_place" else starts[-1]
    question = _variant(tale, chosen.ask, chosen.values, random)
    return row | {"question": question, "answers": {"text": [answer], "answer_start": [start]}}


def _whole_word(word: str, code: Code) -> str:
    return word if code == "zh" else rf"\b{word}\b"


def translate(tale: Tale, random: Random, target: Code, split: Split) -> Row | None:
    """One to three sentences in all languages, English to the target; None if they are another split's."""
    lines = tale.story.lines
    first = random.randrange(len(lines))
    excerpt = lines[first : first + random.randint(1, 3)]
    texts = {code: language(code).tell(excerpt) for code in CODES}
    if _split_of(texts["en"]) != split:
        return None
    pair = {
        "source": texts["en"],
        "target": texts[target],
        "source_language": "en",
        "target_language": target,
    }
    return pair | texts


def _split_of(text: str) -> Split:
    first, second, *_ = blake2b(text.encode(), digest_size=4).digest()
    if first % HELD_OUT_SHARE:
        return "train"
    return "test" if second % 2 else "validation"


def summarize(tale: Tale) -> Row:
    """The story and one sentence: who wished for what, and what came of it."""
    text = tale.language.tell(tale.story.lines)
    return {"text": text, "summary": tale.language.say(summary(tale.outcome)), "language": tale.language.code}


def summary(state: State) -> Line:
    """The one sentence that sums up a story which ends in this state."""
    holder, place = state.held[state.main], state.place_of(state.main)
    values = {"h": state.people[0], "c": state.people[holder], "T": state.things[state.main], "p": place}
    outcome = "true" if state.granted else "false"
    if state.wish == "other":
        values["b"] = state.people[state.target]
        outcome = "own" if holder == 0 else outcome
    if state.wish == "place":
        values["p"], values["q"] = state.target, place
    kind = f"summary_{state.wish}_{outcome}"
    return Line(kind, 0, {slot: values[slot] for slot in SIGNATURES[kind]})


def chat(tale: Tale, random: Random) -> Row:
    """A dialogue: a story is asked for and told up to its ending; then questions about it, and thanks."""
    state, hero = tale.outcome, {"h": tale.outcome.people[0]}
    turns = [
        ("user", _variant(tale, "ask_story", hero, random)),
        ("assistant", tale.language.tell(tale.body)),
    ]
    for question in random.sample(questions(state, tale.body), 2):
        turns.append(("user", _variant(tale, question.ask, question.values, random)))
        turns.append(("assistant", tale.language.say(Line(question.say, 0, question.values))))
    for ask, (say, values) in (("ask_wished", _wished(state)), ("ask_outcome", _judged(state))):
        if random.random() < 0.5:
            turns.append(("user", _variant(tale, ask, hero, random)))
            turns.append(("assistant", tale.language.say(Line(say, 0, values))))
    if random.random() < 0.5:
        turns.append(("user", _variant(tale, "ask_thanks", {}, random)))
        turns.append(("assistant", _variant(tale, "say_welcome", {}, random)))
    return {"turns": [{"role": role, "text": text} for role, text in turns], "language": tale.language.code}


def _judged(state: State) -> tuple[str, Mapping[str, int]]:
    return ("say_true" if state.granted else "say_false"), {"h": state.people[0]}


def _wished(state: State) -> tuple[str, Mapping[str, int]]:
    values = {"h": state.people[0], "T": state.things[state.main]}
    if state.wish == "other":
        values["b"] = state.people[state.target]
    if state.wish == "place":
        values["p"] = state.target
    return f"say_wished_{state.wish}", values

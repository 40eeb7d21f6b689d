"""Views: functions that make a row of a task from a story, each decorated with `view`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Literal, NamedTuple

from datamodules.storyworld.concepts import DOMAINS, SIGNATURES
from datamodules.storyworld.derivation import Story
from datamodules.storyworld.entities import tell_with_entities, titles
from datamodules.storyworld.events import State
from datamodules.storyworld.language import CODES, Code, Language, Line, language
from datamodules.words import word_spans

Split = Literal["train", "validation", "test"]
Row = dict[str, Any]

N_PEOPLE = 3  # the first sentences introduce one person each
HELD_OUT_SHARE = 8  # one in this many short excerpts is held out, half for validation and half for test


class Tale(NamedTuple):
    """A story in a language, and the information in bits of both choices."""

    story: Story[State]
    language: Language
    bits: float

    @property
    def body(self) -> list[Line]:
        """The sentences before the one that tells how the story ended."""
        lines = self.story.lines
        return lines[: next(i for i, line in enumerate(lines) if line.kind.startswith("end_"))]

    @property
    def outcome(self) -> State:
        """The state at the end of the story."""
        return self.story.states[len(self.body) - 1]


@dataclass(frozen=True)
class Draw:
    """The inputs of a view.

    Args:
        number: the number of the row in its split, from 0.
        split: the split of the row.
        random: the random generator for all choices.
        tell: draws a story in one of the languages.
        targets: relative weights of the languages to translate to.
        unanswerable: fraction of questions about a thing that is not in the story.
    """

    number: int
    split: Split
    random: Random
    tell: Callable[[Random], Tale]
    targets: Mapping[Code, float]
    unanswerable: float

    def tale(self) -> Tale:
        """Draw a story."""
        return self.tell(self.random)


class View(NamedTuple):
    """The columns of a view's rows, and the function that makes one."""

    columns: tuple[str, ...]
    row: Callable[[Draw], Row]


VIEWS: dict[str, View] = {}
"""The views by name."""


def view(*columns: str) -> Callable[[Callable[[Draw], Row]], Callable[[Draw], Row]]:
    """Register the decorated function as a view under its name, whose rows have these columns."""

    def register(make: Callable[[Draw], Row]) -> Callable[[Draw], Row]:
        VIEWS[make.__name__] = View(columns, make)
        return make

    return register


@view("text", "language", "bits")
def story(draw: Draw) -> Row:
    """The text of a story, with its exact information in bits."""
    return whole_story(draw.tale())


def whole_story(tale: Tale) -> Row:
    """Return the text of a story and its information; mean bits over mean bytes is the entropy."""
    text = tale.language.tell(tale.story.lines)
    return {"text": text, "language": tale.language.code, "bits": tale.bits}


@view("text", "label", "language")
def classify(draw: Draw) -> Row:
    """A story without its ending; the label is the English name of the person who ends up with the object."""
    tale = draw.tale()
    state = tale.outcome
    label = language("en").word("person", state.people[state.held[state.main]], "name")
    return {"text": tale.language.tell(tale.body), "label": label, "language": tale.language.code}


def place_of_label(tale: Tale) -> tuple[int, int]:
    """Return the span [start, end) in the text of `classify` that names who ends up with the object."""
    lines, state = tale.body, tale.outcome
    told = _last_change([past.held for past in tale.story.states[: len(lines)]], state.main)
    name = tale.language.word("person", state.people[state.held[state.main]], "name")
    start = _place_of(name, tale.language, lines, told)
    return start, start + len(name)


class Question(NamedTuple):
    """A question, its answer as a sentence and as a concept, and the line that contains the answer."""

    ask: str
    say: str
    values: Mapping[str, int]
    domain: str
    answer: int
    told: int


def questions(states: Sequence[State], lines: Sequence[Line]) -> list[Question]:
    """Return the questions about a story so far: places of things and people, holders, and first places."""
    state = states[-1]
    held, at = [past.held for past in states], [past.at for past in states]
    places = [tuple(past.place_of(thing) for thing in range(len(past.held))) for past in states]
    found: list[Question] = []
    for thing, (concept, holder, place) in enumerate(zip(state.things, state.held, places[-1], strict=True)):
        where = {"T": concept, "p": place}
        told = _last_change(places, thing)
        found.append(Question("ask_where_thing", "say_where_thing", where, "place", place, told))
        if holder >= 0:  # somebody has it
            person = state.people[holder]
            has, told = {"T": concept, "a": person}, _last_change(held, thing)
            found.append(Question("ask_who_has", "say_who_has", has, "person", person, told))
    for number, (person, place, line) in enumerate(zip(state.people, state.at, lines, strict=False)):
        is_at, told = {"a": person, "p": place}, _last_change(at, number)
        found.append(Question("ask_where_person", "say_where_person", is_at, "place", place, told))
        was_at = {"a": person, "p": line.values["p"]}
        found.append(Question("ask_first_place", "say_first_place", was_at, "place", was_at["p"], number))
    return found


def _last_change(history: Sequence[tuple[int, ...]], index: int) -> int:
    """Return the number of the line in which a value changed last."""
    line, last = len(history) - 1, history[-1][index]
    while line and history[line - 1][index : index + 1] == (last,):
        line -= 1
    return line


def _variant(tale: Tale, kind: str, values: Mapping[str, int], random: Random) -> str:
    n = len(tale.language.sentences[kind])
    return tale.language.say(Line(kind, int(random.random() * n), values))


@view("id", "context", "language", "question", "answers")
def qa(draw: Draw) -> Row:
    """The beginning of a story, a question about its state, and the answer with its position in the text."""
    tale, random = draw.tale(), draw.random
    lines = tale.body[: random.randint(N_PEOPLE, len(tale.body))]
    states = tale.story.states[: len(lines)]
    row: Row = {
        "id": f"{draw.split}-{draw.number}",
        "context": tale.language.tell(lines),
        "language": tale.language.code,
    }
    if random.random() < draw.unanswerable:
        absent = [thing for thing in range(DOMAINS["thing"]) if thing not in states[-1].things]
        kind = random.choice(("ask_where_thing", "ask_who_has"))
        question = _variant(tale, kind, {"T": random.choice(absent)}, random)
        return row | {"question": question, "answers": {"text": [], "answer_start": []}}
    chosen = random.choice(questions(states, lines))
    form = "name" if chosen.domain == "person" else "noun"
    answer = tale.language.word(chosen.domain, chosen.answer, form)
    question = _variant(tale, chosen.ask, chosen.values, random)
    start = _place_of(answer, tale.language, lines, chosen.told)
    return row | {"question": question, "answers": {"text": [answer], "answer_start": [start]}}


def _place_of(answer: str, spoken: Language, lines: Sequence[Line], told: int) -> int:
    """Return the position of the last occurrence of the answer, up to the line that tells it."""
    word = answer if spoken.code == "zh" else rf"\b{answer}\b"
    before = spoken.tell(lines[: told + 1])
    return [found.start() for found in re.finditer(word, before)][-1]


@view("source", "target", "source_language", "target_language", *CODES)
def translate(draw: Draw) -> Row:
    """One to three sentences in all languages, from English to a target language; splits share no texts."""
    targets = [code for code, weight in draw.targets.items() if weight]
    target = draw.random.choices(targets, [draw.targets[code] for code in targets])[0]
    while True:
        lines = draw.tale().story.lines
        first = draw.random.randrange(len(lines))
        excerpt = lines[first : first + draw.random.randint(1, 3)]
        texts = {code: language(code).tell(excerpt) for code in CODES}
        if _split_of(texts["en"]) == draw.split:
            pair = {"source": texts["en"], "target": texts[target]}
            return pair | {"source_language": "en", "target_language": target} | texts


def _split_of(text: str) -> Split:
    first, second, *_ = blake2b(text.encode(), digest_size=4).digest()
    if first % HELD_OUT_SHARE:
        return "train"
    return "test" if second % 2 else "validation"


@view("text", "summary", "language")
def summarize(draw: Draw) -> Row:
    """A story, and a sentence on who wished for what, and the outcome."""
    tale = draw.tale()
    text = tale.language.tell(tale.story.lines)
    return {"text": text, "summary": tale.language.say(summary(tale.outcome)), "language": tale.language.code}


def summary(state: State) -> Line:
    """Return the sentence that summarizes a story with this final state."""
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


@view("turns", "language")
def chat(draw: Draw) -> Row:
    """A dialogue: a request for a story, the story up to its ending, questions about it, and thanks."""
    tale, random = draw.tale(), draw.random
    state, hero = tale.outcome, {"h": tale.outcome.people[0]}
    turns = [
        ("user", _variant(tale, "ask_story", hero, random)),
        ("assistant", tale.language.tell(tale.body)),
    ]
    for question in random.sample(questions(tale.story.states[: len(tale.body)], tale.body), 2):
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


@view("tokens", "tags", "language")
def tag(draw: Draw) -> Row:
    """The beginning of a story as words, with BIO tags of people, places and things."""
    tale, random = draw.tale(), draw.random
    lines = tale.body[: random.randint(N_PEOPLE, len(tale.body))]
    text, entities = tell_with_entities(tale.language, lines, titles(tale.language, random))
    spans = word_spans(text)
    tags = ["O"] * len(spans)
    for entity in entities:
        inside = [i for i, (start, _) in enumerate(spans) if entity.start <= start < entity.end]
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{entity.type}"
    tokens = [text[start:end] for start, end in spans]
    return {"tokens": tokens, "tags": tags, "language": tale.language.code}


def _judged(state: State) -> tuple[str, Mapping[str, int]]:
    return ("say_true" if state.granted else "say_false"), {"h": state.people[0]}


def _wished(state: State) -> tuple[str, Mapping[str, int]]:
    values = {"h": state.people[0], "T": state.things[state.main]}
    if state.wish == "other":
        values["b"] = state.people[state.target]
    if state.wish == "place":
        values["p"] = state.target
    return f"say_wished_{state.wish}", values

"""People, places and things in the sentences of a story, with the characters where each stands."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from datamodules.storyworld.concepts import DOMAINS, N_ADJECTIVES, N_ROLES, SIGNATURES
from datamodules.storyworld.language import Code, Language, Line

#: Domain of a slot -> type of the entity; domain and form of its word; concepts of the slot for each word.
_KINDS = {
    "person": ("PERSON", "person", "name", 1),
    "someone": ("PERSON", "person", "name", N_ROLES),
    "place": ("PLACE", "place", "noun", 1),
    "thing": ("THING", "thing", "noun", 1),
    "item": ("THING", "thing", "noun", N_ADJECTIVES),
}
_QUOTED: dict[Code, str] = {"en": ' "{}"', "de": " „{}“", "zh": "“{}”"}


class Entity(NamedTuple):
    """The characters [start, end) of an entity, and its type."""

    start: int
    end: int
    type: str


def titles(spoken: Language, random: Random) -> dict[int, str]:
    """Name half of the places after a person or a thing, as the inn "Ida".

    The name is then a part of a place, so that a word alone does not tell its tag.
    """
    named = {}
    for place in range(DOMAINS["place"]):
        if random.random() < 0.5:
            domain, form = random.choice((("person", "name"), ("thing", "noun")))
            word = spoken.word(domain, random.randrange(DOMAINS[domain]), form)
            named[place] = _QUOTED[spoken.code].format(word)
    return named


def tell_with_entities(
    spoken: Language, lines: Sequence[Line], named: Mapping[int, str]
) -> tuple[str, list[Entity]]:
    """Return the words of some lines, with the names of places, and all entities in order.

    An entity is the word that a slot of the sentence stands for, without its article and preposition; words
    that no slot of a person, place or thing has put there, such as a pronoun, are none.
    """
    text, found = "", []
    for line in lines:
        text += spoken.joiner if text else ""
        for piece in spoken.sentences[line.kind][line.variant]:
            if isinstance(piece, str):
                text += piece
                continue
            concept, words = line.values[piece.slot], piece.words[line.values[piece.slot]]
            kind = _KINDS.get(SIGNATURES[line.kind][piece.slot])
            if kind is not None:
                name, domain, form, n_concepts = kind
                word = spoken.word(domain, concept // n_concepts, form)
                start = words.rfind(word)
                if start >= 0:
                    title = named.get(concept, "") if domain == "place" else ""
                    end = start + len(word)
                    words = words[:end] + title + words[end:]
                    found.append(Entity(len(text) + start, len(text) + end + len(title), name))
            text += words
    return text, found

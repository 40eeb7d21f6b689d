"""Find people, places and things in the sentences of a story, with their spans of characters."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from datamodules.storyworld.concepts import DOMAINS, N_ADJECTIVES, N_ROLES, SIGNATURES
from datamodules.storyworld.language import Code, Language, Line

#: Domain of a slot -> type of the entity, domain and form of its word, and concepts of the slot per word.
_KINDS = {
    "person": ("PERSON", "person", "name", 1),
    "someone": ("PERSON", "person", "name", N_ROLES),
    "place": ("PLACE", "place", "noun", 1),
    "thing": ("THING", "thing", "noun", 1),
    "item": ("THING", "thing", "noun", N_ADJECTIVES),
}
_QUOTED: dict[Code, str] = {"en": ' "{}"', "de": " „{}“", "zh": "“{}”"}


class Entity(NamedTuple):
    """The span [start, end) of an entity, and its type."""

    start: int
    end: int
    type: str


def titles(spoken: Language, random: Random) -> dict[int, str]:
    """Give half of the places names of persons or things, such as the inn "Ida".

    Such a name is a part of a place, so that a word alone does not determine its tag.
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
    """Return the text of some lines, including the names of places, and all entities in order.

    An entity is the word of a slot for a person, place or thing, without its article and preposition. Other
    words, such as pronouns, are not entities.
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

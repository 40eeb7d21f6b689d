"""A language of the world: words and sentences, compiled so that generating text only joins strings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal, NamedTuple

from datamodules.storyworld import (
    grammar_de,
    grammar_en,
    grammar_zh,
    lexicon_de,
    lexicon_en,
    lexicon_zh,
)
from datamodules.storyworld.concepts import SIGNATURES

Code = Literal["en", "de", "zh"]
CODES: tuple[Code, ...] = ("en", "de", "zh")

_FIELD = re.compile(r"\{(\w+)\.(\w+)\}")


class Line(NamedTuple):
    """A sentence without words: its kind, its variant, and the ids of the concepts in its slots."""

    kind: str
    variant: int
    values: Mapping[str, int]


class Hole(NamedTuple):
    """The position of a slot in a sentence: `words[id]` is the form of the word there."""

    slot: str
    words: tuple[str, ...]


Piece = str | Hole


@dataclass(frozen=True)
class Language:
    """One language: `sentences[kind][variant]` is a sequence of fixed strings and holes."""

    code: Code
    joiner: str
    sentences: Mapping[str, tuple[tuple[Piece, ...], ...]]
    words: Mapping[str, list[dict[str, str]]]

    def say(self, line: Line) -> str:
        """Return the text of one sentence."""
        values = line.values
        pieces = self.sentences[line.kind][line.variant]
        return "".join([piece if isinstance(piece, str) else piece[1][values[piece[0]]] for piece in pieces])

    def tell(self, lines: Sequence[Line]) -> str:
        """Return the text of a story."""
        return self.joiner.join([self.say(line) for line in lines])

    def word(self, domain: str, concept: int, form: str = "noun") -> str:
        """Return a form of the word for a concept."""
        return self.words[domain][concept][form]


def _compile(
    template: str, signature: Mapping[str, str], words: Mapping[str, list[dict[str, str]]]
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    end = 0
    for match in _FIELD.finditer(template):
        if match.start() > end:
            pieces.append(template[end : match.start()])
        slot, form = match.groups()
        pieces.append(Hole(slot, tuple(forms[form] for forms in words[signature[slot]])))
        end = match.end()
    return (*pieces, template[end:]) if end < len(template) else tuple(pieces)


_MODULES: dict[Code, tuple[ModuleType, ModuleType, str]] = {
    "en": (lexicon_en, grammar_en, " "),
    "de": (lexicon_de, grammar_de, " "),
    "zh": (lexicon_zh, grammar_zh, ""),
}


@cache
def language(code: Code) -> Language:
    """Return English, German or Chinese, compiled once."""
    lexicon, grammar, joiner = _MODULES[code]
    words = lexicon.tables()
    sentences = {
        kind: tuple(_compile(template, SIGNATURES[kind], words) for template in templates)
        for kind, templates in grammar.TEMPLATES.items()
    }
    return Language(code, joiner, sentences, words)

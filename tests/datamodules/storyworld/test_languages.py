import re
from random import Random
from types import ModuleType

import pytest

from datamodules.storyworld import (
    StoryWorld,
    grammar_de,
    grammar_en,
    grammar_zh,
    lexicon_de,
    lexicon_en,
    lexicon_zh,
)
from datamodules.storyworld.concepts import DOMAINS, SIGNATURES
from datamodules.storyworld.derivation import draw
from datamodules.storyworld.language import CODES, Line, language
from datamodules.storyworld.plot import Plot

GRAMMARS = {"en": grammar_en, "de": grammar_de, "zh": grammar_zh}
LEXICONS = {"en": lexicon_en, "de": lexicon_de, "zh": lexicon_zh}


def test_each_language_says_the_same_kinds_in_the_same_number_of_ways() -> None:
    counts = [{kind: len(ways) for kind, ways in grammar.TEMPLATES.items()} for grammar in GRAMMARS.values()]
    assert counts[0] == counts[1] == counts[2]
    assert set(counts[0]) == set(SIGNATURES)


@pytest.mark.parametrize("code", CODES)
def test_each_language_has_a_word_for_each_concept(code: str) -> None:
    sizes = {domain: len(words) for domain, words in LEXICONS[code].tables().items()}
    assert sizes == DOMAINS


@pytest.mark.parametrize("code", CODES)
def test_no_two_concepts_of_a_domain_share_their_words(code: str) -> None:
    for domain, words in LEXICONS[code].tables().items():
        assert len({tuple(sorted(forms.items())) for forms in words}) == len(words), domain


def _slots(template: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\.\w+\}", template))


@pytest.mark.parametrize("kind", SIGNATURES)
def test_variants_name_the_same_slots_in_all_languages(kind: str) -> None:
    for ways in zip(*(grammar.TEMPLATES[kind] for grammar in GRAMMARS.values()), strict=True):
        assert _slots(ways[0]) == _slots(ways[1]) == _slots(ways[2]) <= set(SIGNATURES[kind])


@pytest.mark.parametrize("code", CODES)
def test_nouns_and_names_appear_only_where_their_concept_is_meant(code: str) -> None:
    """So that an answer is found by its words: no "mill" in "miller", no 书 in 图书馆."""
    told_in, plot = language(code), Plot()  # type: ignore[arg-type]
    domains = {"place": "noun", "thing": "noun", "person": "name"}
    for seed in range(80):
        lines = draw(plot, Random(seed)).lines
        text = told_in.tell(lines)
        for domain, form in domains.items():
            meant = {concept for line in lines for concept in _concepts(line, domain)}
            for concept, forms in enumerate(told_in.words[domain]):
                word = forms[form]
                found = re.search(word if code == "zh" else rf"\b{word}\b", text) is not None
                assert found == (concept in meant), (word, text)


def _concepts(line: Line, domain: str) -> list[int]:
    factor = {"someone": ("person", 10), "item": ("thing", 8)}
    concepts = []
    for slot, value in line.values.items():
        kind = SIGNATURES[line.kind][slot]
        base, size = factor.get(kind, (kind, 1))
        if base == domain:
            concepts.append(value // size)
    return concepts


@pytest.mark.parametrize(
    ("adjective", "gender", "noun", "forms"),
    [
        ("rot", "m", "Schlüssel", ("ein roter Schlüssel", "einen roten Schlüssel", "einem roten Schlüssel")),
        ("alt", "f", "Trommel", ("eine alte Trommel", "eine alte Trommel", "einer alten Trommel")),
        ("klein", "n", "Buch", ("ein kleines Buch", "ein kleines Buch", "einem kleinen Buch")),
    ],
)
def test_german_adjectives_follow_gender_and_case(
    adjective: str, gender: str, noun: str, forms: tuple[str, str, str]
) -> None:
    item = lexicon_de.THINGS.index((gender, noun)) * len(lexicon_de.ADJECTIVES) + lexicon_de.ADJECTIVES.index(
        adjective
    )
    words = language("de").words["item"][item]
    assert (words["nom"], words["acc"], words["dat"]) == forms


@pytest.mark.parametrize("module", [lexicon_en, lexicon_de, lexicon_zh])
def test_names_are_not_beginnings_of_other_names(module: ModuleType) -> None:
    names = module.NAMES
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


@pytest.mark.parametrize("code", CODES)
def test_sentences_are_clean(code: str) -> None:
    for row in StoryWorld(100, languages={code: 1.0}).rows("train"):  # type: ignore[dict-item]
        text = row["text"]
        assert "{" not in text
        assert "  " not in text
        assert text == text.strip()
        assert re.search(r"[.!?。！？”“\"]$", text)
        assert not re.search(r"[a-zäöüß]{2}[A-ZÄÖÜ]", text)
        if code == "zh":
            assert not re.search(r"[A-Za-z ,.!?]", text)
        else:
            assert not re.search(r"[.!?] [a-zäöü]", text)

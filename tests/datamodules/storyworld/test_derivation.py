from math import log2
from random import Random

import pytest

from datamodules.storyworld.derivation import draw, stories
from datamodules.storyworld.language import CODES, language
from tests.datamodules.storyworld.small import events_only, introductions_only

SMALL = {
    "events": events_only("T", "DF", "TC", "CW", place=6),
    "variants": events_only("DF", most_variants=2, place=4),
    "slots": events_only("T", "C", place=5, way=2, mood=2, manner=2, animal=2, treat=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_probabilities_of_all_stories_of_a_small_world_sum_to_one(name: str) -> None:
    assert sum(p for _, p in stories(SMALL[name])) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", SMALL)
def test_no_two_derivations_of_a_small_world_have_the_same_text(name: str, code: str) -> None:
    texts = [language(code).tell(lines) for lines, _ in stories(SMALL[name])]  # type: ignore[arg-type]
    assert len(texts) > 500
    assert len(set(texts)) == len(texts)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_no_two_derivations_of_the_introductions_have_the_same_text(code: str) -> None:
    told = [(language(code).tell(lines), p) for lines, p in stories(introductions_only())]  # type: ignore[arg-type]
    assert len({text for text, _ in told}) == len(told)
    assert sum(p for _, p in told) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_the_bits_of_a_drawn_story_are_those_of_its_probability_in_the_full_list(name: str) -> None:
    plot, english = SMALL[name], language("en")
    listed = {english.tell(lines): p for lines, p in stories(plot)}
    for seed in range(100):
        story = draw(plot, Random(seed))
        assert story.bits == pytest.approx(-log2(listed[english.tell(story.lines)]), abs=1e-9)


def test_stories_are_drawn_as_often_as_their_probability_says() -> None:
    plot, english = events_only("DF", place=4), language("en")
    listed = {english.tell(lines): p for lines, p in stories(plot)}
    n = 5_000
    seen = dict.fromkeys(listed, 0)
    random = Random(5)
    for _ in range(n):
        seen[english.tell(draw(plot, random).lines)] += 1
    chi_squared = sum((seen[text] - n * p) ** 2 / (n * p) for text, p in listed.items())
    freedom = len(listed) - 1
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5

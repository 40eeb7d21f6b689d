from collections import defaultdict
from math import inf, log2
from random import Random

import pytest

from datamodules.storyworld import StoryWorld, split_words
from datamodules.storyworld.chart import Chart
from datamodules.storyworld.derivation import stories
from datamodules.storyworld.language import CODES, language
from datamodules.storyworld.plot import Plot
from tests.datamodules.storyworld.small import events_only


def test_words_spaces_and_marks_join_to_the_text_again() -> None:
    text = 'Otto\'s "Drum"! „Größe“, 米拉说：“好。”  \nend'
    assert "".join(split_words(text)) == text


def test_every_text_has_exactly_one_derivation_with_the_bits_of_its_row() -> None:
    world = StoryWorld(100, seed=11)
    shares = {"en": 0.5, "de": 0.25, "zh": 0.25}
    for row in world.rows("train"):
        chart = Chart(Plot(), language(row["language"]), split_words(row["text"]))
        assert chart.n_derivations == 1
        assert -log2(chart.probability * shares[row["language"]]) == pytest.approx(row["bits"], abs=1e-9)


@pytest.mark.parametrize("code", CODES)
def test_no_text_is_read_in_another_language(code: str) -> None:
    row = StoryWorld(languages={code: 1.0}).row("train", 0)  # type: ignore[dict-item]
    for other in CODES:
        n_derivations = Chart(Plot(), language(other), split_words(row["text"])).n_derivations
        assert n_derivations == (other == code)


def test_a_text_with_one_wrong_word_or_an_early_end_is_impossible() -> None:
    world = StoryWorld(languages={"en": 1.0})
    text = world.row("train", 0)["text"]
    assert world.information_bits(text) < 200
    assert world.information_bits(text.replace(" was ", " is ", 1)) == inf
    assert world.information_bits(text[: text.index(". ") + 1]) == inf
    assert world.information_bits(text + " ") == inf
    assert world.information_bits("") == inf


def _agrees(words: tuple[str, ...], pattern: list[str | None]) -> bool:
    if len(words) != len(pattern):
        return False
    pairs = zip(words, pattern, strict=True)
    return all(word == wanted if wanted is not None else word[0].isalnum() for word, wanted in pairs)


@pytest.mark.parametrize("code", CODES)
def test_masked_words_have_the_posterior_that_the_full_list_of_stories_gives(code: str) -> None:
    plot, told_in = events_only("T", "DF", "TC", "CC", place=5), language(code)  # type: ignore[arg-type]
    listed = [(split_words(told_in.tell(lines)), p) for lines, p in stories(plot)]
    random = Random(3)
    for _ in range(6):
        words, _p = random.choice(listed)
        maskable = [i for i, word in enumerate(words) if word[0].isalnum()]
        masked = set(random.sample(maskable, len(maskable) // 3))
        pattern = [None if i in masked else word for i, word in enumerate(words)]
        expected: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for other, p in listed:
            if _agrees(other, pattern):
                for i in masked:
                    expected[i][other[i]] += p
        found = Chart(plot, told_in, pattern).masked_words()
        assert set(found) == masked
        for i in masked:
            assert found[i] == pytest.approx(dict(expected[i]), rel=1e-9)


def test_a_word_that_the_rest_decides_is_certain_and_a_free_one_is_not() -> None:
    world = StoryWorld(languages={"en": 1.0})
    text = world.row("train", 3)["text"]
    words = split_words(text)
    role = words.index("the", words.index("was")) if "was" in words else 0
    color = next(
        i for i, word in enumerate(words) if word in ("red", "blue", "green", "yellow", "white", "black")
    )
    the = max(i for i, word in enumerate(words) if word == "the")
    found = world.masked_words(text, {color, the, role})
    assert found[the]["the"] == pytest.approx(1.0)
    assert max(found[color].values()) < 0.2
    assert all(sum(candidates.values()) == pytest.approx(1.0) for candidates in found.values())


def test_refused_candidates_have_no_probability() -> None:
    world = StoryWorld(languages={"en": 1.0})
    text = world.row("train", 3)["text"]
    color = next(
        i for i, word in enumerate(split_words(text)) if word in ("red", "blue", "green", "yellow", "white")
    )
    found = world.masked_words(text, {color}, lambda position, word: len(word) <= 4)
    assert set(found[color]) <= {"red", "blue", "old"}


def test_masking_a_text_of_no_story_is_refused() -> None:
    with pytest.raises(ValueError, match="no story"):
        StoryWorld().masked_words("Call me Ishmael.", {0})

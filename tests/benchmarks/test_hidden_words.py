from collections import defaultdict
from functools import cache
from random import Random

import numpy as np
import pytest

from benchmarks.hidden_words import HiddenWords, Unit, UnitChart, align, hide, posterior, tokens_fit
from datamodules.storyworld import StoryWorld, split_words
from datamodules.storyworld.derivation import stories
from datamodules.storyworld.language import CODES, Code, language
from datamodules.tokenizer import ByteLevelBPE, Bytes, Tokenizer, Unigram, WordPiece
from tests.datamodules.storyworld.small import events_only


@cache
def tokenizer_of(kind: str = "bpe") -> Tokenizer:
    trainers = {
        "bpe": ByteLevelBPE(1024), "wordpiece": WordPiece(1400), "unigram": Unigram(1024), "bytes": Bytes(),
    }  # fmt: skip
    return trainers[kind].train(row["text"] for row in StoryWorld(400).rows("train"))


def hidden(text: str, tokenizer: Tokenizer, seed: int = 0, rate: float = 0.15) -> HiddenWords:
    return hide(text, tokenizer, rate=rate, random=np.random.default_rng(seed))


def test_a_unit_ends_where_a_word_and_a_token_end_together() -> None:
    # "a", " bcd", "ef" as tokens " b" + "cd", and two characters that share three tokens
    assert align(["a", " ", "bcd", "织", "布"], [1, 2, 2, 2, 2, 2]) == [
        Unit(0, 1, 0, 1),
        Unit(1, 3, 1, 3),
        Unit(3, 5, 3, 6),
    ]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "bytes"])
@pytest.mark.parametrize("code", CODES)
def test_the_tokens_of_a_unit_are_its_text(kind: str, code: Code) -> None:
    tokenizer = tokenizer_of(kind)
    for row in StoryWorld(1, n_validation_rows=5, languages={code: 1.0}).rows("validation"):
        words, ids = split_words(row["text"]), tokenizer.encode(row["text"])
        units = align(words, tokenizer.token_bytes[ids].tolist())
        assert (units[-1].end_word, units[-1].end_token) == (len(words), len(ids))
        for unit in units:
            text = "".join(words[unit.first_word : unit.end_word])
            assert tokenizer.decode(ids[unit.first_token : unit.end_token]) == text


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "bytes"])
def test_hidden_units_are_words_without_marks_and_the_share_that_was_asked_for(kind: str) -> None:
    text = 'There stood Otto, half-asleep. "Ah!" she said. 米拉说：“好。”'
    everything = hidden(text, tokenizer_of(kind), rate=0.999)
    found = [part for unit in everything.hidden for part in everything.truth(unit)]
    assert found == [*["There", "stood", "Otto", "half", "asleep", "Ah", "she", "said"], *"米拉说好"]
    assert len(hidden(text, tokenizer_of(kind), rate=0.5).hidden) == round(0.5 * len(everything.hidden))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "bytes"])
def test_candidates_fit_where_the_whole_text_with_them_has_the_tokens_that_are_seen(kind: str) -> None:
    tokenizer, random = tokenizer_of(kind), Random(0)
    n_fitting = n_of_other_tokens = n_of_other_units = 0
    for i, row in enumerate(StoryWorld(1, n_validation_rows=20).rows("validation")):
        story = hidden(row["text"], tokenizer, seed=i)
        fits = tokens_fit(story, tokenizer)
        words = sorted({word for word in story.words if word[0].isalnum()})
        assert fits(tuple((p, story.words[p]) for unit in story.hidden for p in story.positions(unit)))
        for unit in story.hidden:
            for _ in range(8):
                others = {p: random.choice(words) for p in story.positions(unit)}
                told = retold(story, others, tokenizer)
                same_tokens, same_units = looks_the_same(told, story), has_units(told, story, tokenizer)
                assert fits(tuple(others.items())) == (same_tokens and same_units)
                n_fitting += same_tokens and same_units
                n_of_other_tokens += len(told.ids) == len(story.ids) and same_units and not same_tokens
                n_of_other_units += same_tokens and not same_units
    assert n_fitting > 0
    assert kind not in ("bpe", "unigram") or n_of_other_tokens + n_of_other_units > 0


def retold(story: HiddenWords, others: dict[int, str], tokenizer: Tokenizer) -> HiddenWords:
    """The story with other words at some positions."""
    words = tuple(others.get(i, word) for i, word in enumerate(story.words))
    return HiddenWords(words, tuple(tokenizer.encode("".join(words)).tolist()), story.hidden)


def has_units(told: HiddenWords, story: HiddenWords, tokenizer: Tokenizer) -> bool:
    """Whether all units that are hidden in one are units of the other."""
    units = align(told.words, tokenizer.token_bytes[list(told.ids)].tolist())
    return set(story.hidden) <= set(units)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["en", "de"])
def test_where_a_word_is_a_unit_the_posterior_is_that_of_the_world_for_words_of_as_many_tokens(
    code: Code,
) -> None:
    world, tokenizer = StoryWorld(languages={code: 1.0}), tokenizer_of()
    for seed in range(4):
        story = hidden(world.row("validation", seed)["text"], tokenizer, seed)
        position = {story.positions(unit)[0]: unit for unit in story.hidden}

        def as_many_tokens(i: int, word: str, story: HiddenWords = story) -> bool:
            space = " " if i and story.words[i - 1] == " " else ""
            return len(tokenizer.encode(space + word)) == len(tokenizer.encode(space + story.words[i]))

        expected = world.masked_words("".join(story.words), position, as_many_tokens)
        found = posterior(world, story, tokenizer)
        for i, unit in position.items():
            assert {words[0]: p for words, p in found[unit].items()} == pytest.approx(expected[i], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram", "bytes"])
@pytest.mark.parametrize("code", CODES)
def test_hidden_units_have_the_posterior_that_the_full_list_of_stories_gives(kind: str, code: Code) -> None:
    tokenizer, told_in = tokenizer_of(kind), language(code)
    plot = events_only("T", "DF", "TC", "CC", place=5, spot=2, way=2)
    listed = [(told_in.tell(lines), p) for lines, p in stories(plot)]
    for seed in range(4):
        story = hidden(listed[seed * 311 % len(listed)][0], tokenizer, seed, (0.3, 0.8)[seed % 2])
        expected: dict[Unit, dict[tuple[str, ...], float]] = {
            unit: defaultdict(float) for unit in story.hidden
        }
        for text, p in listed:
            told = HiddenWords(split_words(text), tuple(tokenizer.encode(text).tolist()), story.hidden)
            if looks_the_same(told, story) and has_units(told, story, tokenizer):
                for unit in story.hidden:
                    expected[unit][told.truth(unit)] += p
        found = UnitChart(plot, told_in, story, tokens_fit(story, tokenizer)).hidden_units()
        for unit in story.hidden:
            assert found[unit] == pytest.approx(dict(expected[unit]), rel=1e-9)


def looks_the_same(told: HiddenWords, story: HiddenWords) -> bool:
    """Whether all is equal but the hidden words and tokens."""
    if (len(told.words), len(told.ids)) != (len(story.words), len(story.ids)):
        return False
    words = {i for unit in story.hidden for i in story.positions(unit)}
    tokens = {i for unit in story.hidden for i in range(unit.first_token, unit.end_token)}
    return all(told.words[i] == story.words[i] for i in range(len(story.words)) if i not in words) and all(
        told.ids[i] == story.ids[i] for i in range(len(story.ids)) if i not in tokens
    )

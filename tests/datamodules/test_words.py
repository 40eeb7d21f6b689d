"""Words of a text, and words joined to a text."""

import pytest

from datamodules.storyworld import StoryWorld
from datamodules.storyworld.language import CODES, Code
from datamodules.words import joined, word_spans


@pytest.mark.parametrize("code", CODES)
def test_the_words_of_a_story_joined_are_the_story(code: Code) -> None:
    world = StoryWorld(150, languages={code: 1.0})
    for row in world.rows("train"):
        text = row["text"]
        spans = word_spans(text)
        assert joined([text[start:end] for start, end in spans]) == (text, spans)


def test_words_are_joined_as_they_are_written() -> None:
    words = [
        "John",
        "'s",
        "dog",
        "(",
        "a",
        "pug",
        ")",
        ",",
        "said",
        ":",
        '"',
        "No",
        "!",
        '"',
        "東",
        "京",
        "。",
    ]
    text, spans = joined(words)
    assert text == 'John\'s dog (a pug), said: "No!" 東京。'
    assert [text[start:end] for start, end in spans] == words


def test_any_words_are_found_again_at_their_characters() -> None:
    words = ["…", "a b", "'", "“", "“", "x", "\u200b", "中", "7", '"']
    text, spans = joined(words)
    assert [text[start:end] for start, end in spans] == words
    assert joined([]) == ("", [])

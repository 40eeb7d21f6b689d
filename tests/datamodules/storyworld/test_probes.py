"""Probes: the good sentence is of the world's grammar, the bad one is not; the label is what is told next."""

from collections.abc import Callable
from typing import Any

import pytest

from datamodules.storyworld import StoryWorld, probes

WORLD = StoryWorld(languages={"en": 1})


def whole_stories(n: int) -> list[str]:
    return [WORLD.row("test", i)["text"] for i in range(n)]


@pytest.mark.parametrize("make", [probes.pronouns, probes.articles])
def test_a_story_is_possible_with_the_good_sentence_and_impossible_with_the_bad_one(
    make: Callable[[int], list[dict[str, Any]]],
) -> None:
    stories = whole_stories(30)
    for row in make(8):
        begin = f"{row['context']} {row['good']}"
        (story,) = {one for one in stories if one.startswith(begin)}
        spoilt = story.replace(begin, f"{row['context']} {row['bad']}")
        assert WORLD.information_bits(story) < 500
        assert WORLD.information_bits(spoilt) == float("inf")


def test_the_label_of_an_ending_is_the_name_that_the_story_tells_next() -> None:
    stories = whole_stories(60)
    for row in probes.endings(12):
        told = [one for one in stories if one.startswith(row["context"])]
        assert len(set(row["names"])) == 3
        for story in told:  # the first way to say it; the others begin with other words
            assert story[len(row["context"]) :].startswith(f" {row['names'][row['label']]} ")
    assert any(one.startswith(row["context"]) for row in probes.endings(12) for one in stories)


def test_row_i_of_a_probe_depends_on_its_seed_and_number_alone() -> None:
    assert probes.pronouns(5) == probes.pronouns(9)[:5]
    assert probes.pronouns(5) != probes.pronouns(5, seed=1)
    assert probes.stories(3) == [{"text": text} for text in whole_stories(3)]

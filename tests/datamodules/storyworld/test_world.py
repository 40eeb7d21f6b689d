from statistics import fmean
from typing import Any

import pytest

from datamodules.corpus import Columns
from datamodules.errors import DataError
from datamodules.storyworld import StoryWorld
from datamodules.storyworld.views import VIEWS


def test_the_first_story_never_changes() -> None:
    """Fingerprints and seeds promise it: bump VERSION when this must be edited."""
    text = StoryWorld(languages={"en": 1.0}).row("train", 0)["text"]
    assert text.startswith(
        "On a rainy morning, Karl the painter found a green cup at the mill. Meanwhile, Otto"
    )
    assert text.endswith("But in the end Otto had the bell, and Karl went home with a sigh.")


def test_the_estimated_entropy_agrees_with_the_bits_of_the_rows() -> None:
    world = StoryWorld(2000, seed=3)
    rows = list(world.rows("train"))
    bits, size = fmean(row["bits"] for row in rows), fmean(len(row["text"].encode()) for row in rows)
    entropy = world.entropy(2000)
    assert abs(bits - entropy.bits_per_story) < 6 * entropy.bits_per_story_error
    assert abs(bits / size - entropy.bits_per_byte) < 6 * entropy.bits_per_byte_error


def test_languages_come_in_their_shares() -> None:
    rows = [row["language"] for row in StoryWorld(2000, languages={"en": 3.0, "zh": 1.0}).rows("train")]
    assert rows.count("de") == 0
    assert abs(rows.count("zh") / 2000 - 0.25) < 0.05


def test_the_choice_of_language_is_part_of_the_bits() -> None:
    alone = StoryWorld(languages={"de": 1.0})
    mixed = StoryWorld(languages={"de": 1.0, "zh": 3.0})
    text = alone.row("train", 0)["text"]
    assert mixed.information_bits(text) == pytest.approx(alone.information_bits(text) + 2.0)


def test_stories_fit_a_small_context_and_are_not_repeated() -> None:
    texts = [row["text"] for row in StoryWorld(1000, languages={"en": 1.0}).rows("train")]
    assert len(set(texts)) == 1000
    assert max(len(text.split()) for text in texts) < 180


def test_a_story_carries_sixty_bits_at_least() -> None:
    assert min(row["bits"] for row in StoryWorld(2000).rows("train")) > 60


def test_load_gives_a_corpus_with_both_splits_and_a_stable_fingerprint() -> None:
    world = StoryWorld(50, n_validation_rows=20)
    corpus = world.load()
    assert (corpus.n_train_rows, corpus.n_validation_rows) == (50, 20)
    assert list(corpus.train)[3] == world.row("train", 3)
    assert corpus.fingerprint == StoryWorld(50, n_validation_rows=20).fingerprint
    assert corpus.fingerprint != StoryWorld(51, n_validation_rows=20).fingerprint
    assert [source["split"] for source in corpus.sources] == ["train", "validation"]


@pytest.mark.parametrize("view", sorted(VIEWS.keys() - {"story"}))
def test_every_view_loads_its_columns_in_three_splits(view: Any) -> None:
    world = StoryWorld(12, n_validation_rows=4, n_test_rows=3, view=view, unanswerable=0.5)
    corpus = world.load(Columns(VIEWS[view].columns))
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (12, 4, 3)
    assert [tuple(row) for row in corpus.train] == [VIEWS[view].columns] * 12
    assert [source["split"] for source in corpus.sources] == ["train", "validation", "test"]


def test_stories_have_no_test_rows_unless_asked_and_their_fingerprint_is_as_ever() -> None:
    assert StoryWorld(12, n_validation_rows=4).load().test is None
    assert StoryWorld(12, n_validation_rows=4, n_test_rows=2).load().n_test_rows == 2
    assert StoryWorld().fingerprint == "6fda3bd2fc3ea61ddae2fe917006dd8dbf97a8b872fd1dd5f030c5c3dddd2413"


def test_a_view_without_the_columns_of_a_task_is_answered_with_one_that_has_them() -> None:
    with pytest.raises(DataError) as caught:
        StoryWorld(12).load(Columns(("context", "question", "answers")))
    assert str(caught.value) == (
        "data.view=story: its rows have no column 'context'; "
        "expected one of the columns present: text, language, bits\nhint: set data.view=qa"
    )
    with pytest.raises(DataError, match="choose another corpus"):
        StoryWorld(12).load(Columns(("colour",)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_train_rows": 0}, "n_train_rows=0"),
        ({"n_test_rows": -1}, "n_test_rows=-1"),
        ({"n_validation_rows": -1}, "n_validation_rows=-1"),
        ({"languages": {"fr": 1.0}}, "'fr'"),
        ({"languages": {"en": 0.0}}, "languages"),
        ({"languages": {"en": 2.0, "de": -1.0}}, "languages"),
        ({"view": "translate", "languages": {"en": 1.0}}, "a target language"),
        ({"unanswerable": 1.5}, "unanswerable=1.5"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        StoryWorld(**arguments)

from collections import Counter
from random import Random
from typing import Any

import pytest

from datamodules.storyworld import StoryWorld, lexicon_en
from datamodules.storyworld.concepts import SIGNATURES
from datamodules.storyworld.entities import tell_with_entities
from datamodules.storyworld.language import CODES, Code
from datamodules.storyworld.views import N_PEOPLE, VIEWS, Draw, Tale, _place_of, classify, questions
from tests.datamodules.storyworld.test_plot import replay


@pytest.mark.parametrize("code", CODES)
def test_answers_stand_in_the_context_at_their_offset(code: str) -> None:
    world = StoryWorld(300, view="qa", languages={code: 1.0})  # type: ignore[dict-item]
    for row in world.rows("train"):
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(answer)] == answer


def test_an_answer_is_told_by_the_line_after_which_it_never_changes() -> None:
    world = StoryWorld(languages={"en": 1.0})
    for seed in range(200):
        tale = world._tale(Random(seed))
        history = {n: _answers(tale, n) for n in range(N_PEOPLE, len(tale.body) + 1)}
        for key, (answer, told) in history[len(tale.body)].items():
            since = [n for n in history if n > told]
            assert all(history[n][key][0] == answer for n in since)
            if told in history and key in history[told]:
                assert history[told][key][0] != answer


def _answers(tale: Tale, n: int) -> dict[tuple[str, int], tuple[int, int]]:
    """Answer and telling line of each question on the first n lines, by what is asked of whom or what."""
    asked = questions(tale.story.states[:n], tale.body[:n])
    return {(q.ask, q.values["T"] if "T" in q.values else q.values["a"]): (q.answer, q.told) for q in asked}


@pytest.mark.parametrize("code", CODES)
def test_an_answer_stands_in_the_line_that_tells_it(code: Code) -> None:
    world = StoryWorld(languages={code: 1.0})
    for seed in range(100):
        tale = world._tale(Random(seed))
        for q in questions(tale.story.states[: len(tale.body)], tale.body):
            word = tale.language.word(q.domain, q.answer, "name" if q.domain == "person" else "noun")
            start = _place_of(word, tale.language, tale.body, q.told)
            before, after = (len(tale.language.tell(tale.body[: q.told + more])) for more in (0, 1))
            assert before <= start < after
            assert tale.language.tell(tale.body)[start : start + len(word)] == word


def test_many_answers_need_the_last_of_several_moves() -> None:
    rows = [
        row
        for row in StoryWorld(500, view="qa", languages={"en": 1.0}).rows("train")
        if "end" in row["question"]
    ]
    late = sum(row["answers"]["answer_start"][0] > len(row["context"]) / 2 for row in rows)
    assert late > len(rows) / 3


def test_the_wanted_share_of_questions_has_no_answer_and_asks_for_an_absent_thing() -> None:
    rows = list(StoryWorld(1000, view="qa", unanswerable=0.3).rows("train"))
    without = [row for row in rows if not row["answers"]["text"]]
    assert 240 < len(without) < 360
    for row in without:
        assert row["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize("code", CODES)
def test_the_label_is_who_has_the_thing_of_the_wish_at_last(code: Code) -> None:
    world = StoryWorld(languages={code: 1.0})
    for seed in range(200):
        tale = world._tale(Random(seed))
        wished = next(line.values["T"] for line in tale.body if line.kind.startswith("wish_"))
        holder, _ = replay(tale.body)
        draw = Draw(0, "train", Random(seed), world._tale, {}, 0.0)
        assert classify(draw)["label"] == lexicon_en.NAMES[holder[wished]]


def test_labels_are_balanced() -> None:
    counts = Counter(row["label"] for row in StoryWorld(3000, view="classify").rows("train"))
    assert set(counts) == set(lexicon_en.NAMES)
    assert max(abs(n / 3000 - 1 / 16) for n in counts.values()) < 0.02


def test_the_text_to_classify_does_not_contain_the_ending() -> None:
    for row in StoryWorld(300, view="classify", languages={"en": 1.0}).rows("train"):
        assert "In the end" not in row["text"]
        assert "When the moon rose" not in row["text"]
        assert "That night" not in row["text"]


def test_the_text_to_classify_begins_the_story_of_the_same_row() -> None:
    for i in range(50):
        assert (
            StoryWorld()
            .row("train", i)["text"]
            .startswith(StoryWorld(view="classify").row("train", i)["text"])
        )


@pytest.mark.slow
def test_a_bag_of_words_guesses_among_the_three_people_of_a_story() -> None:
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    world = StoryWorld(8000, n_validation_rows=2000, view="classify", languages={"en": 1.0})
    train, validation = list(world.rows("train")), list(world.rows("validation"))
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    accuracy = model.score([row["text"] for row in validation], [row["label"] for row in validation])
    assert accuracy < 0.6


@pytest.mark.parametrize("target", ["de", "zh"])
def test_the_source_decides_the_translation(target: str) -> None:
    world = StoryWorld(2000, view="translate", languages={target: 1.0})  # type: ignore[dict-item]
    translations: dict[str, str] = {}
    for row in world.rows("train"):
        assert row["target_language"] == target
        assert row["target"] == row[target]
        assert row["source"] == row["en"]
        assert translations.setdefault(row["source"], row["target"]) == row["target"]


def test_translations_of_single_sentences_are_the_same_wherever_they_stand() -> None:
    known: dict[str, tuple[str, str]] = {}
    repeated = 0
    for row in StoryWorld(3000, view="translate").rows("train"):
        if row["en"].count(".") == 1:
            repeated += row["en"] in known
            assert known.setdefault(row["en"], (row["de"], row["zh"])) == (row["de"], row["zh"])
    assert repeated > 5


def test_dialogues_alternate_and_end_with_the_assistant() -> None:
    for row in StoryWorld(200, view="chat").rows("train"):
        roles = [turn["role"] for turn in row["turns"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) >= 6


def _key(row: dict[str, Any]) -> str:
    return str(
        [row[name] for name in ("text", "context", "question", "source", "turns", "tokens") if name in row]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_the_splits_share_no_row(view: str) -> None:
    world = StoryWorld(800, n_validation_rows=100, n_test_rows=100, view=view)
    train, validation, test = ({_key(row) for row in world.rows(split)} for split in world.n_rows)
    assert not train & validation
    assert not train & test
    assert not validation & test


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_depends_on_seed_split_and_number_alone(view: str) -> None:
    row = StoryWorld(10, view=view).row("train", 7)
    assert row == StoryWorld(5000, n_validation_rows=9, view=view).row("train", 7)
    assert row != StoryWorld(10, view=view, seed=1).row("train", 7)
    assert row != StoryWorld(10, view=view).row("validation", 7)
    assert row != StoryWorld(10, view=view).row("train", 8)


@pytest.mark.parametrize("code", CODES)
def test_the_entities_of_a_tagged_row_are_the_people_places_and_things_of_its_lines(code: Code) -> None:
    world = StoryWorld(languages={code: 1.0})
    for seed in range(100):
        tale = world._tale(Random(seed))
        text, found = tell_with_entities(tale.language, tale.body, {})
        assert text == tale.language.tell(tale.body)
        slots: Counter[tuple[str, str]] = Counter()
        for line in tale.body:
            for piece in tale.language.sentences[line.kind][line.variant]:
                domain = "" if isinstance(piece, str) else SIGNATURES[line.kind][piece.slot]
                if isinstance(piece, str) or domain not in ("person", "place", "thing"):
                    continue
                word = tale.language.word(
                    domain, line.values[piece.slot], "name" if domain == "person" else "noun"
                )
                slots[domain.upper(), word] += word in piece.words[line.values[piece.slot]]
        told = Counter((one.type, text[one.start : one.end]) for one in found)
        assert all(told[key] >= n for key, n in slots.items())
        assert told.total() == slots.total() + 3 + 2  # the people and things that the first lines introduce


@pytest.mark.slow
def test_a_word_alone_does_not_tell_its_tag() -> None:
    """Names of people and things are parts of places too."""
    seen: dict[str, Counter[str]] = {}
    for row in StoryWorld(2000, view="tag", languages={"en": 1.0}).rows("train"):
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            seen.setdefault(token, Counter())[tag] += 1
    for word in (*lexicon_en.NAMES, *lexicon_en.THINGS):
        assert seen[word]["I-PLACE"] > 10
        assert seen[word]["B-PERSON"] + seen[word]["B-THING"] > 10


def test_a_named_place_is_one_entity_with_its_quotation_marks() -> None:
    row = StoryWorld(view="tag", languages={"en": 1.0}).row("train", 0)
    words = " ".join(row["tokens"])
    assert 'at the school " map " beside a red bell' in words
    first = row["tokens"].index("school")
    assert row["tags"][first : first + 5] == ["B-PLACE", "I-PLACE", "I-PLACE", "I-PLACE", "O"]

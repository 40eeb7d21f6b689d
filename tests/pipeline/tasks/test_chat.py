"""Dialogues: what of them is learnt, which turns are read, what is answered and how it is scored."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from modules.transformer import Decoder
from pipeline.tasks.chat import Dialogue
from pipeline.tasks.finetuning import Prediction
from pipeline.tasks.turns import Stream, Turn, turns_of
from tests.pipeline.tasks.writers import LIMIT, TOKENIZER, labelled, overfit, read, writer

TASK = Dialogue()
ROWS: list[dict[str, Any]] = [
    {"turns": ["Hi", "Hello!", "Who?", "Anna."]},
    {"turns": [{"role": "user", "text": "Where?"}, {"role": "assistant", "text": "Home."}]},
    {"turns": ["Hi", "Hello!", "Bye"]},
]


def features_of(*turns: Any, limit: int = LIMIT) -> list[dict[str, np.ndarray]]:
    return TASK.features({"turns": list(turns)}, TOKENIZER, writer(Decoder, limit=limit).backbone)


def prediction(text: str, *totals: float) -> Prediction:
    names = ("reply_nats", "reply_tokens", "reply_tokens_right")
    return Prediction(text=text, details=dict(zip(names, totals, strict=True)))


@pytest.mark.slow
def test_a_batch_is_learnt_by_heart_and_each_last_reply_is_written_and_ends_by_itself() -> None:
    model = writer(Decoder)
    assert overfit(TASK, model, ROWS) < 0.05
    found = TASK.predict(model, TOKENIZER, ROWS[:2], batch_size=2)
    assert [prediction.text for prediction in found] == ["Anna.", "Home."]
    scores = TASK.score(found, ROWS[:2], intervals=True)
    assert scores["exact_match"].value == scores["reply_accuracy"].value == 1.0
    assert 1.0 <= scores["reply_perplexity"].value < 1.05
    asked = TASK.row_from_input(["Hi"], [])
    (answer,) = TASK.predict(model, TOKENIZER, [asked], batch_size=1)
    assert answer.text == "Hello!"
    (answer,) = TASK.predict(
        model, TOKENIZER, [TASK.row_from_input(["Who?"], [(asked, answer)])], batch_size=1
    )
    assert answer.text == "Anna."


def test_a_dialogue_is_one_example_and_only_replies_and_their_ends_are_labelled() -> None:
    (feature,) = features_of("Hi", "Hello!", "Who?", "Anna.", "Bye")
    assert read(feature) == "<bos><user>Hi<assistant>Hello!<eos><user>Who?<assistant>Anna."
    assert labelled(feature) == "Hello!<eos>Anna.<eos>"
    known = feature["labels"] != -100
    following = np.append(feature["input_ids"][1:], TOKENIZER.eos_id)
    assert (feature["labels"][known] == following[known]).all()


def test_an_instruction_opens_the_dialogue_and_stays_when_turns_are_dropped() -> None:
    system = {"role": "system", "text": "Be brief."}
    turns = [{"role": role, "text": "ab"} for _ in range(9) for role in ("user", "assistant")]
    features = features_of(system, *turns)
    assert len(features) > 1
    assert all(read(feature).startswith("<bos><system>Be brief.<") for feature in features)


TURNS = st.lists(st.text("ab", max_size=60), min_size=2, max_size=12)


@settings(max_examples=150)
@given(texts=TURNS, limit=st.integers(16, 80))
def test_each_token_of_each_reply_is_learnt_just_once_however_long_the_dialogue(
    texts: list[str], limit: int
) -> None:
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    features = Stream.of(turns, TOKENIZER, limit=limit).features(limit=limit)
    assert "".join(map(labelled, features)) == "".join(f"{reply}<eos>" for reply in texts[1::2])
    whole = TOKENIZER.decode([TOKENIZER.bos_id], keep_special=True) + "".join(
        f"<{turn.role}>{turn.text}{'<eos>' if turn.role == 'assistant' else ''}" for turn in turns
    )
    for feature in features:
        assert 1 <= len(feature["input_ids"]) == len(feature["labels"]) <= limit
        assert read(feature).removeprefix("<bos>") in whole
        first = int(np.flatnonzero(feature["labels"] != -100)[0])
        assert first > 0, "a reply is foretold from what stands before it"


def test_a_reply_that_fits_is_in_one_example_with_the_turns_before_it() -> None:
    replies = [f"reply {i}" for i in range(9)]
    features = features_of(*[text for reply in replies for text in ("say it", reply)])
    assert len(features) > 1
    for feature in features:
        assert read(feature).startswith("<bos><user>say it<assistant>reply ")
        assert all(text in replies for text in labelled(feature).split("<eos>")[:-1])


def test_a_batch_takes_from_padding_nothing() -> None:
    model = writer(Decoder)
    features = [feature for row in ROWS for feature in TASK.features(row, TOKENIZER, model.backbone)]
    with torch.no_grad():
        nats, n_tokens = TASK.objective().loss(model, TASK.collate(features))
        alone = [TASK.objective().loss(model, TASK.collate([feature])) for feature in features]
    assert n_tokens == sum(n for _, n in alone)
    assert nats.item() == pytest.approx(sum(value.item() for value, _ in alone), rel=1e-5)


@pytest.mark.slow
def test_perplexity_and_accuracy_are_those_of_all_replies_whatever_the_batches() -> None:
    model = writer(Decoder)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(10)
    rows = [*ROWS, {"turns": ["word"] * 40}]  # longer than the model reads
    metrics = TASK.objective().metrics()
    for row in rows:
        for feature in TASK.features(row, TOKENIZER, model.backbone):
            with torch.no_grad():
                TASK.objective().update(metrics, model, TASK.collate([feature]))
    for batch_size in (1, 3, 64):
        scores = TASK.score(TASK.predict(model, TOKENIZER, rows, batch_size=batch_size), rows)
        assert scores["reply_perplexity"].value == pytest.approx(
            metrics["perplexity"].compute().item(), rel=1e-4
        )
        assert scores["reply_accuracy"].value == pytest.approx(metrics["accuracy"].compute().item())


@pytest.mark.slow
def test_the_reply_that_is_there_has_no_say_in_the_one_that_is_written() -> None:
    model = writer(Decoder)
    texts = [
        TASK.predict(model, TOKENIZER, [{"turns": turns}], batch_size=1)[0].text
        for turns in (["Hi", "Hello!"], ["Hi", "Something else."], ["Hi"])
    ]
    assert len(set(texts)) == 1


def test_the_latest_turns_are_read_where_not_all_fit() -> None:
    turns = [Turn(("user", "assistant")[i % 2], f"turn {i:02}") for i in range(21)]
    stream = Stream.of(turns, TOKENIZER, limit=LIMIT)
    for reserve in (8, 32):
        prompt = stream.prompt(TOKENIZER, limit=LIMIT, reserve=reserve)
        text = TOKENIZER.decode(prompt, keep_special=True)
        assert len(prompt) + reserve <= LIMIT + 1
        assert text.startswith(("<bos><user>turn", "<bos><assistant>turn"))
        assert text.endswith("<user>turn 20<assistant>")


def test_of_a_turn_that_is_too_long_the_end_is_read() -> None:
    stream = Stream.of([Turn("user", "a" * 500 + "b" * 9)], TOKENIZER, limit=LIMIT)
    text = TOKENIZER.decode(stream.prompt(TOKENIZER, limit=LIMIT, reserve=8), keep_special=True)
    assert text == "<bos>" + "a" * (LIMIT + 1 - 8 - 2 - 9) + "b" * 9 + "<assistant>"


@pytest.mark.slow
def test_turns_are_only_dropped_for_an_answer_that_needs_the_room() -> None:
    model = writer(Decoder)
    rows = [{"turns": ["Where is it? " * 3, "Home."]}]
    assert overfit(TASK, model, rows) < 0.05
    (answer,) = TASK.predict(model, TOKENIZER, rows, batch_size=1)
    assert answer.text == "Home."


def test_of_100_000_characters_what_fits_is_read() -> None:
    model = writer(Decoder)
    row = {"turns": ["word " * 20_000, "a reply"]}
    (feature,) = TASK.features(row, TOKENIZER, model.backbone)
    assert len(TASK.predict(model, TOKENIZER, [row], batch_size=1)) == 1
    assert len(feature["input_ids"]) <= LIMIT
    assert labelled(feature) == "a reply<eos>"


def test_a_reply_is_no_longer_than_asked_for_and_the_same_for_the_same_seed() -> None:
    model = writer(Decoder)
    task = replace(TASK, max_reply_tokens=3, temperature=2.0, seed=1)
    first, again = (task.predict(model, TOKENIZER, ROWS, batch_size=8) for _ in range(2))
    assert [answer.text for answer in first] == [answer.text for answer in again]
    assert all(len(answer.text) <= 3 for answer in first)
    assert {answer.details["finish_reason"] for answer in first} == {"length"}
    assert task.cautions(first)[0].startswith(
        f"{len(ROWS)} of {len(ROWS)} texts were cut at max_reply_tokens=3"
    )
    assert TASK.predict(model, TOKENIZER, [], batch_size=8) == []


def test_scores_are_over_tokens_and_exact_matches_over_dialogues_that_end_in_a_reply() -> None:
    found = [prediction("Anna.", 8.0, 4, 1), prediction("no", 0.0, 4, 4), prediction("x", 2.0, 2, 2)]
    scores = TASK.score(found, ROWS, intervals=True)
    assert scores["reply_perplexity"].value == pytest.approx(np.exp(10 / 10))
    assert scores["reply_accuracy"].value == pytest.approx(7 / 10)
    assert scores["exact_match"].value == 0.5
    assert all(score.low <= score.value <= score.high for score in scores.values())
    assert TASK.row_scores(found, ROWS).tolist() == [1.0, 0.0, 1.0]
    assert "exact_match" not in TASK.score(found[2:], ROWS[2:])


def test_speakers_are_told_by_place_role_or_speaker() -> None:
    expected = [Turn("user", "a"), Turn("assistant", "b")]
    for keys in (("role", "user", "bot"), ("role", "USER", "assistant"), ("speaker", "user", "system")):
        name, person, model = keys
        turns = [{name: person, "text": "a"}, {name: model, "text": "b"}]
        assert turns_of({"turns": turns}, "row 1") == expected
    assert turns_of({"turns": ["a", "b"]}, "row 1") == expected
    assert turns_of({"turns": [{"role": "system", "text": "a"}]}, "row 1") == [Turn("system", "a")]


def test_two_turns_of_one_side_become_one() -> None:
    turns = [{"role": "user", "text": "a"}, {"role": "user", "text": ""}, {"role": "bot", "text": "c"}]
    assert turns_of({"turns": turns}, "row 1") == [Turn("user", "a\n"), Turn("assistant", "c")]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (None, "row 2 of train: turns is missing"),
        ("hello", "row 2 of train: turns is of type str"),
        ([], "row 2 of train: turns is empty"),
        (["hello"], "row 2 of train: turns has no reply"),
        (["hello", " "], "row 2 of train: turns has an empty reply"),
        (["hello", 5], "row 2 of train, turn 2 is of type int"),
        ([{"role": "dog", "text": "x"}], "row 2 of train, turn 1 has the role 'dog'"),
        ([{"text": "x"}], "row 2 of train, turn 1 has the role None"),
        ([{"role": "user", "text": None}], "row 2 of train, turn 1: text is missing"),
    ],
)
def test_a_dialogue_that_cannot_be_learnt_is_named_with_what_is_wrong(turns: Any, problem: str) -> None:
    with pytest.raises(DataError) as error:
        TASK.check([ROWS[0], {"turns": turns}], "train")
    assert str(error.value).startswith(problem)


def test_empty_words_of_a_person_can_be_answered() -> None:
    TASK.check([{"turns": ["", "yes"]}], "train")
    assert labelled(features_of("", "yes")[0]) == "yes<eos>"
    assert len(TASK.predict(writer(Decoder), TOKENIZER, [{"turns": [""]}], batch_size=1)) == 1


def test_a_sample_shows_the_turns_before_the_reply() -> None:
    sample = TASK.sample(ROWS[0], prediction("me", 1, 1, 1))
    assert (sample.input, sample.output, sample.target) == (
        "user: Hi\nassistant: Hello!\nuser: Who?",
        "me",
        "Anna.",
    )
    assert TASK.sample(ROWS[2], prediction("me", 1, 1, 1)).target is None
    assert TASK.head(writer(Decoder).backbone) == {"_target_": "modules.heads.LMHead"}
    assert TASK.texts(ROWS[0]) == ["Hi", "Hello!", "Who?", "Anna."]

"""Question answering: answers map back to exact characters, rows are checked, a batch is learnt."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.features import padded_width
from modules.transformer import Decoder, Encoder, Transformer
from pipeline.tasks.finetuning import Prediction
from pipeline.tasks.qa import ExtractiveQA
from pipeline.tasks.qa.spans import Candidates, probabilities, propose
from pipeline.tasks.qa.windows import Passage, Window, windows
from tests.pipeline.tasks.small_models import BYTES, backbone, model_for, overfit, words
from tests.waiting import processor_time


def row(context: str, question: str, *answers: str) -> dict[str, Any]:
    starts = [context.index(answer) for answer in answers]
    return {
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": starts},
    }


CONTEXT = "Ann has the lamp, Bob has the key."
ROWS = [row(CONTEXT, "lamp?", "Ann"), row(CONTEXT, "key?", "Bob"), row(CONTEXT, "Ann?", "the lamp")]
NONE = row(CONTEXT, "pen?")
ZH = row("小明在花园里🌙，灯在桌上。", "灯在哪？", "桌上")


def passage_of(context: str) -> Passage:
    return Passage.of(context, BYTES)


@settings(max_examples=60)
@given(st.text(max_size=40), st.data())
def test_an_answer_becomes_tokens_and_the_same_characters_again(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(start, len(context)))
    answer = context[start:end]
    if answer.strip():
        first, last = passage_of(context).tokens(start, end)
        found = passage_of(context).characters(first, last)
        assert context[slice(*found)] == answer.strip()


@pytest.mark.parametrize("stride", [0, 3, 1000])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 100])
def test_windows_hold_every_token_of_the_passage_and_overlap_by_the_stride(length: int, stride: int) -> None:
    passage = passage_of("".join(chr(97 + i % 26) for i in range(length)))
    question = BYTES.encode("q" * 5)
    made = windows(question, passage, BYTES, limit=18, stride=stride, max_question_tokens=64)
    room = 18 - 3 - 5
    covered: set[int] = set()
    for window in made:
        part = window.ids[window.passage_start : window.null]
        assert len(window.ids) <= 18
        assert window.ids[window.null] == BYTES.eos_id
        assert window.ids[window.passage_start - 1] == BYTES.sep_id
        assert part.tolist() == passage.ids[window.first_token : window.first_token + room].tolist()
        covered |= set(range(window.first_token, window.first_token + len(part)))
    assert covered == set(range(length))
    steps = np.diff([window.first_token for window in made])
    assert (steps == room - min(stride, room // 2)).all()
    assert len(made) == 1 if length <= room else made[-2].first_token + room < length


@pytest.mark.parametrize("limit", [4, 5, 8, 16])
def test_a_long_question_leaves_half_of_the_room_to_the_passage(limit: int) -> None:
    made = windows(
        BYTES.encode("q" * 500),
        passage_of("abcdef"),
        BYTES,
        limit=limit,
        stride=64,
        max_question_tokens=64,
    )
    assert all(len(window.ids) <= limit for window in made)
    assert all(window.null > window.passage_start for window in made)


def test_tokens_that_the_question_has_too_are_marked_whatever_their_case_but_no_punctuation() -> None:
    context = "Anna, a cook; Bo?"
    made = windows(
        BYTES.encode("a B?"), passage_of(context), BYTES, limit=16, stride=2, max_question_tokens=9
    )
    assert len(made) > 1
    for window in made:
        shown = BYTES.decode(window.ids[window.types == 1])
        part = BYTES.decode(window.ids[window.passage_start : window.null])
        assert shown == "".join(letter for letter in part if letter in "aAbB")
    assert sum(window.types.sum() for window in made) >= 4


def test_an_answer_that_a_window_does_not_hold_as_a_whole_is_none_there() -> None:
    window = Window(np.arange(10), np.zeros(10, np.int64), passage_start=4, first_token=20)
    assert window.null == 9
    assert window.span(20, 24) == (4, 8)
    assert window.span(19, 21) == (9, 9)
    assert window.span(23, 25) == (9, 9)


@pytest.mark.parametrize("one", [*ROWS, ZH], ids=lambda one: one["answers"]["text"][0])
def test_the_labels_of_a_feature_are_the_tokens_of_the_answer(one: dict[str, Any]) -> None:
    (feature,) = ExtractiveQA().features(one, BYTES, backbone(Encoder, max_seq_len=128))
    first, last = feature["answer_span"]
    assert BYTES.decode(feature["input_ids"][first : last + 1]) == one["answers"]["text"][0]
    assert feature["passage_start"][0] <= first <= last < len(feature["input_ids"]) - 1


def test_without_an_answer_the_end_of_the_window_is_the_label() -> None:
    (feature,) = ExtractiveQA().features(NONE, BYTES, backbone(Encoder))
    assert feature["answer_span"].tolist() == [len(feature["input_ids"]) - 1] * 2


def test_a_hundred_thousand_characters_become_windows_and_one_answer() -> None:
    long = row("filler words " * 7700 + "the goal", "where?", "the goal")
    body = backbone(Encoder)
    features = ExtractiveQA().features(long, BYTES, body)
    assert all(len(feature["input_ids"]) <= body.max_seq_len for feature in features)
    assert any(feature["answer_span"][0] < len(feature["input_ids"]) - 1 for feature in features)


def test_a_batch_lets_answers_stand_in_the_passage_and_at_its_end_alone() -> None:
    task = ExtractiveQA()
    features = [task.features(one, BYTES, backbone(Encoder))[0] for one in (ROWS[0], ROWS[1])]
    batch = task.collate(features)
    longest = max(len(feature["input_ids"]) for feature in features)
    assert batch["input_ids"].shape[1] == padded_width(longest)
    for line, feature in zip(batch["passage_mask"], features, strict=True):
        expected = range(int(feature["passage_start"][0]), len(feature["input_ids"]))
        assert line.nonzero().flatten().tolist() == list(expected)
    assert batch["answer_span"].tolist() == [feature["answer_span"].tolist() for feature in features]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_one_batch_is_learnt_by_heart(kind: type[Transformer]) -> None:
    rows = [*ROWS, NONE]
    task = ExtractiveQA(dropout=0.0).fit(rows)
    model = model_for(task, kind)
    assert overfit(task, model, BYTES, rows, n_steps=100, lr=5e-3) < 0.1
    predictions = task.predict(model, BYTES, rows, batch_size=3)
    assert [prediction.text for prediction in predictions] == ["Ann", "Bob", "the lamp", ""]
    for one, prediction in zip(rows, predictions, strict=True):
        details = prediction.details
        if prediction.text:
            assert one["context"][details["start"] : details["end"]] == prediction.text
        assert sum(entry["probability"] for entry in details["n_best"]) == pytest.approx(1)
        assert prediction.confidence == max(entry["probability"] for entry in details["n_best"])
    assert task.score(predictions, rows)["exact_match"].value == 1
    assert task.row_scores(predictions, rows).tolist() == [1] * 4


def test_predictions_are_in_the_order_of_the_rows_whatever_the_batch_and_need_no_truth() -> None:
    tokenizer = words([CONTEXT, "where is the key?"])
    task = ExtractiveQA(stride=4, n_best=5)
    model = model_for(task, Encoder, max_seq_len=24).train()
    rows = [{"context": f"{CONTEXT} " * n, "question": "where is the key?"} for n in (4, 1, 7, 2)]
    together = task.predict(model, tokenizer, rows, batch_size=3)
    alone = [task.predict(model, tokenizer, [one], batch_size=1)[0] for one in rows]
    assert model.training
    for one, other, given_row in zip(together, alone, rows, strict=True):
        assert one.text == other.text == given_row["context"][one.details["start"] : one.details["end"]]
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)
        assert len(one.details["n_best"]) == 5


@pytest.mark.parametrize("context", ["", "   "])
def test_a_context_without_text_has_no_answer(context: str) -> None:
    task = ExtractiveQA()
    (prediction,) = task.predict(
        model_for(task, Encoder), BYTES, [{"context": context, "question": ""}], batch_size=4
    )
    assert (prediction.text, prediction.details["n_best"]) == ("", [])


def slow_best(passage: Passage, made: list[Window], logits: torch.Tensor, longest: int) -> dict[str, float]:
    """The best score of each text over all spans of all windows."""
    best: dict[str, float] = {}
    for window, scores in zip(made, logits, strict=True):
        for first in range(window.passage_start, window.null):
            for last in range(first, min(first + longest, window.null)):
                shift = window.first_token - window.passage_start
                start, end = passage.characters(first + shift, last + shift)
                score = float(scores[first, 0] + scores[last, 1])
                text = passage.context[start:end]
                if text:
                    best[text] = max(best.get(text, -np.inf), score)
    return best


def test_the_best_answers_of_several_windows_are_those_of_a_search_over_all_spans() -> None:
    passage = passage_of("abcd efgh ijkl mnop")
    made = windows(BYTES.encode("?"), passage, BYTES, limit=14, stride=4, max_question_tokens=4)
    lowest = torch.finfo(torch.float32).min
    logits = torch.full((len(made), 16, 2), lowest)
    torch.manual_seed(0)
    for line, window in zip(logits, made, strict=True):
        line[window.passage_start : len(window.ids)] = torch.randn(len(window.ids) - window.passage_start, 2)
    found = Candidates(passage)
    proposed = propose(made, logits, n_best=20, max_answer_tokens=3)
    for window, (places, scores, null) in zip(made, proposed, strict=True):
        found.add(window, places, scores, null)
    expected = slow_best(passage, made, logits, 3)
    ranked = sorted(expected, key=lambda text: -expected[text])[:10]
    assert [span.text for span in found.best(10)] == ranked
    assert [span.score for span in found.best(10)] == pytest.approx([expected[text] for text in ranked])
    nulls = [float(line[window.null].sum()) for line, window in zip(logits, made, strict=True)]
    assert found.null_score == pytest.approx(min(nulls))


def test_probabilities_of_large_scores_are_finite() -> None:
    assert probabilities([1000.0, 1000.0]) == [0.5, 0.5]
    assert probabilities([]) == []


def answer(text: str, margin: float | None) -> Prediction:
    n_best = [{"text": text, "start": 0, "end": len(text), "probability": 1.0}] if text else []
    return Prediction(text=text, details={"n_best": n_best, "null_margin": margin})


def test_the_null_threshold_is_chosen_on_validation_rows_where_some_have_no_answer() -> None:
    rows = [ROWS[0], ROWS[1], NONE, NONE]
    predictions = [answer("Ann", -3.0), answer("Bob", 1.0), answer("Bob", 2.0), answer("", None)]
    assert ExtractiveQA().calibrated(predictions, rows).null_threshold == 1.5
    assert ExtractiveQA().calibrated(predictions[:2], rows[:2]).null_threshold is None
    assert ExtractiveQA(null_threshold=0.25).calibrated(predictions, rows).null_threshold == 0.25


@pytest.mark.parametrize(("threshold", "text"), [(-1e6, ""), (1e6, "answer")])
def test_the_null_threshold_decides_between_an_answer_and_none(threshold: float, text: str) -> None:
    task = ExtractiveQA(null_threshold=threshold)
    (prediction,) = task.predict(
        model_for(task, Encoder), BYTES, [{"context": "answer", "question": "?"}], batch_size=1
    )
    assert bool(prediction.text) == bool(text)
    assert prediction.details["n_best"][0]["probability"] > 0


def test_scores_are_given_for_questions_with_and_without_answer_by_themselves() -> None:
    rows = [ROWS[0], ROWS[1], NONE]
    predictions = [answer("Ann", 0), answer("", 0), answer("", 0)]
    values = {name: score.value for name, score in ExtractiveQA().score(predictions, rows).items()}
    assert values == {
        "exact_match": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "has_answer_exact_match": 0.5,
        "has_answer_f1": 0.5,
        "no_answer_f1": 1.0,
    }
    assert set(ExtractiveQA().score(predictions[:2], rows[:2])) == {"exact_match", "f1"}
    assert ExtractiveQA().notes(predictions, rows)["f1"] == "SQuAD v2.0"
    assert ExtractiveQA().notes(predictions, [ZH])["f1"] == "CMRC 2018"


MOVED = {"text": ["key"], "answer_start": [31]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": ""}, "test, row 2: 'context' is empty"),
        ({"question": " "}, "row 2: 'question' is empty"),
        ({"question": None}, "row 2: 'question' is missing"),
        ({"context": 5}, "row 2: 'context' is of type int"),
        ({"answers": None}, "row 2: 'answers' is missing"),
        ({"answers": ["key"]}, "row 2: 'answers' is of type list"),
        ({"answers": {"text": "key", "answer_start": 3}}, "has no lists 'text' and 'answer_start'"),
        (
            {"answers": {"text": ["key"], "answer_start": []}},
            "there are 1 answers, but 0 values of 'answer_start'",
        ),
        ({"answers": {"text": [""], "answer_start": [0]}}, "the answer '' has the start 0"),
        ({"answers": {"text": ["sofa"], "answer_start": [0]}}, "the answer 'sofa' is not in its context;"),
        (
            {"answers": MOVED},
            r"the answer 'key' does not start at character 31, where the context has 'ey.'; .* starts at 30",
        ),
        (
            {"answers": {"text": ["has"], "answer_start": [3]}},
            "where the context has ' ha'; .* it occurs in 2 places",
        ),
        ({"answers": {"text": ["Ann"], "answer_start": [-34]}}, "does not start at character -34"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_by_number(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ExtractiveQA().check([ROWS[0], {**ROWS[1], **change}], "test")


def test_all_rows_with_wrong_places_are_counted() -> None:
    with pytest.raises(DataError, match=r"row 1: .* \(3 such rows\)"):
        ExtractiveQA().check([{**ROWS[1], "answers": MOVED}] * 3, "train")


def test_the_check_of_ten_times_as_many_rows_costs_about_ten_times_as_much() -> None:
    few, many = ([*ROWS, NONE, ZH] * n for n in (200, 2000))
    cost = [processor_time(lambda rows=rows: ExtractiveQA().check(rows, "train")) for rows in (few, many)]
    assert cost[1] < 50 * cost[0]


def test_questions_without_answer_are_learnt_from_the_training_rows() -> None:
    assert not ExtractiveQA().fit(ROWS).unanswerable
    assert ExtractiveQA().fit([*ROWS, NONE]).unanswerable


def test_a_sample_shows_the_question_with_its_context_the_answer_and_the_first_truth() -> None:
    sample = ExtractiveQA().sample(ROWS[0], Prediction(text="Ann", confidence=0.5))
    given = "lamp? [Ann has the lamp, Bob has the key.]"
    assert (sample.input, sample.output, sample.target) == (given, "Ann (0.50)", "Ann")
    sample = ExtractiveQA().sample(NONE, Prediction(text=""))
    assert (sample.output, sample.target) == ("no answer", "no answer")
    assert ExtractiveQA().sample({"context": "c", "question": "q"}, Prediction(text="")).target is None


@pytest.mark.parametrize(
    ("answer_start", "begins", "ends"),
    [([0], "a0 a1", "…"), ([1400], "…", "…"), ([], "a0", "…"), ([2880], "…", "a599")],
)
def test_of_a_long_context_a_sample_shows_what_stands_around_the_answer(
    answer_start: list[int], begins: str, ends: str
) -> None:
    context = " ".join(f"a{i}" for i in range(600))
    answers = {"answer_start": answer_start, "text": [context[i : i + 3] for i in answer_start]}
    row = {"context": context, "question": "q?", "answers": answers}
    given = ExtractiveQA().sample(row, Prediction(text="")).input
    assert given.startswith(f"q? [{begins}")
    assert given.endswith(f"{ends}]")
    assert len(given) < 320
    assert all(text in given for text in answers["text"])


def test_at_the_terminal_the_context_stays_until_another_is_typed() -> None:
    history = [({"context": "old", "question": "first?"}, Prediction(text=""))]
    assert ExtractiveQA().row_from_input(["", "second?"], history) == {
        "context": "old",
        "question": "second?",
    }
    assert ExtractiveQA().row_from_input(["new", "q?"], []) == {"context": "new", "question": "q?"}


def test_loss_and_accuracy_of_validation_are_means_over_windows_of_batches_of_unequal_size() -> None:
    task = ExtractiveQA().fit(ROWS)
    model, objective = model_for(task, Encoder).eval(), task.objective()
    features = [task.features(one, BYTES, model.backbone)[0] for one in ROWS]
    metrics = objective.metrics()
    with torch.no_grad():
        for part in (features[:2], features[2:]):
            objective.update(metrics, model, task.collate(part))
        batch = task.collate(features)
        nats, n = objective.loss(model, batch)
        right = (model(batch).argmax(1) == batch["answer_span"]).all(1).float().mean()
    assert metrics.compute()["loss"].item() == pytest.approx(nats.item() / n, rel=1e-5)
    assert metrics.compute()["accuracy"].item() == pytest.approx(right.item())

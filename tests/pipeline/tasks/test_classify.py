"""Classification: labels of every form, features that fit, scores equal to the usual libraries', learning."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from datamodules.errors import DataError
from modules.transformer import Decoder, Encoder, Transformer
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.classify.inputs import truncated
from pipeline.tasks.classify.objective import MultiLabelObjective, SingleLabelObjective
from pipeline.tasks.finetuning import Prediction
from tests.pipeline.tasks.small_models import BYTES, backbone, model_for, overfit

ROWS = [{"text": text, "label": label} for text, label in zip("abcdef", "xyzxyz", strict=True)]
PAIRS = [
    {"text": text, "text_pair": pair, "label": label}
    for text, pair, label in [
        ("ab", "ab", "same"),
        ("ab", "cd", "other"),
        ("cd", "cd", "same"),
        ("cd", "ab", "other"),
    ]
]
SEVERAL = [
    {"text": "a", "label": ["x"]},
    {"text": "ab", "label": ["x", "y"]},
    {"text": "b", "label": ["y"]},
    {"text": "", "label": []},
]
SETS = {"one": ROWS, "pairs": PAIRS, "several": SEVERAL}


def fitted(rows: list[dict[str, Any]], **options: Any) -> TextClassification:
    return TextClassification(**options).fit(rows)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 2, 0], ["0", "2", "10"]),
        (["10", "2"], ["2", "10"]),
        (["1", "01", "0", "00"], ["0", "00", "01", "1"]),
        ([2.0, 1.0], ["1", "2"]),
        ([["b"], [], ["a", "b"]], ["a", "b"]),
    ],
)
def test_names_are_those_of_the_training_rows_sorted_numbers_by_value(
    labels: list[Any], names: list[str]
) -> None:
    assert fitted([{"text": "", "label": label} for label in labels]).label_names == names


def test_several_labels_are_known_by_their_lists() -> None:
    assert fitted(SEVERAL).multi_label
    assert not fitted(ROWS).multi_label


def test_numbers_are_places_in_names_that_were_given_but_not_in_names_that_were_collected() -> None:
    numbered = [{"text": "", "label": 1}, {"text": "", "label": 0}]
    given = fitted(numbered, label_names=["zero", "an one"])
    given.check(numbered, "train")
    assert given.label_counts == [1, 1]
    with pytest.raises(DataError, match="'1', '0' are not labels of the training rows"):
        fitted([{"text": "", "label": "b"}, {"text": "", "label": "a"}]).check(numbered, "test")


def test_numbers_of_classes_may_be_written_as_text_as_csv_has_them() -> None:
    written = [{"text": "", "label": "1"}, {"text": "", "label": "0"}]
    given = fitted(written, label_names=["zero", "an one"])
    given.check([*written, {"text": "", "label": "0"}], "train")
    given.check([{"text": "", "label": 1}], "test")
    assert given.label_counts == [1, 1]
    with pytest.raises(DataError, match="'2', '01' are not labels"):
        given.check([{"text": "", "label": "2"}, {"text": "", "label": "01"}], "test")
    names = [{"text": "", "label": "2"}, {"text": "", "label": "a"}]
    assert fitted(names, label_names=["a", "b", "2"]).label_counts == [1, 0, 1]


def test_a_class_is_the_same_in_every_kind_of_file() -> None:
    for train, tests in (([1, 2], ["1", "2"]), (["1", "2"], [1.0, 2.0]), ([True, False], ["true", "FALSE"])):
        task = fitted([{"text": "", "label": label} for label in train])
        for some in (train, tests):
            rows = [{"text": "", "label": label} for label in some]
            task.check(rows, "test")
            assert [task.labels(row, Prediction(text=""))[1] for row in rows] == [
                task.labels({"label": label}, Prediction(text=""))[1] for label in train
            ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "q"}], "validation, row 1: 'q' is not a label of the training rows"),
        ([ROWS[0], {"text": "a", "label": None}], r"validation, row 2: the label is missing \(1 such rows\)"),
        ([ROWS[0], {"text": "a"}], "validation, row 2: the label is missing"),
        ([ROWS[0], {"text": "a", "label": float("nan")}], "the label is missing"),
        (
            [ROWS[0], ROWS[1], {"text": "a", "label": 3}],
            "row 3: the label 3 is a whole number; expected text",
        ),
        ([{"text": "a", "label": 0.5}], "the label 0.5 is a float"),
        ([{"text": 5, "label": "x"}], "row 1: 'text' is int 5; expected text"),
        ([{"text": None, "label": "x"}], "row 1: 'text' is missing"),
        ([{"text": "a", "text_pair": 5, "label": "x"}], "row 1: 'text_pair' is int 5"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_by_number(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted(ROWS).check(rows, "validation")


def test_labels_that_training_lacks_are_named_and_many_of_them_counted() -> None:
    rows = [{"text": "", "label": f"new{i}"} for i in range(9)]
    with pytest.raises(DataError, match="'new0', 'new1', 'new2', 'new3', 'new4' and 4 more are not labels"):
        fitted(ROWS).check(rows, "test")


def test_training_rows_of_one_class_are_refused() -> None:
    rows = [{"text": "a", "label": "x"}] * 3
    with pytest.raises(
        DataError, match="all 3 training rows have one label: 'x'; expected rows of at least two classes"
    ):
        fitted(rows).check(rows, "train")


@pytest.mark.parametrize("name", SETS)
def test_rows_that_are_right_pass(name: str) -> None:
    fitted(SETS[name]).check(SETS[name], "train")


def slow_longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_of_a_pair_the_longer_text_loses_its_end_token_by_token() -> None:
    for room in range(8):
        for first in range(7):
            for second in range(7):
                kept = truncated([np.arange(first), np.arange(second)], room)
                assert tuple(map(len, kept)) == slow_longest_first(first, second, room)


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["one", "pairs"])
@pytest.mark.parametrize("length", [0, 1, 63, 64, 500, 100_000])
def test_features_fit_the_backbone_and_end_with_the_end(rows: list[dict[str, Any]], length: int) -> None:
    row = {**rows[0], "text": "t" * length}
    task, body = fitted(rows), backbone(Encoder)
    (feature,) = task.features(row, BYTES, body)
    ids = feature["input_ids"]
    assert len(ids) <= body.max_seq_len
    assert (ids[0], ids[-1]) == (BYTES.bos_id, BYTES.eos_id)
    assert (BYTES.sep_id in ids) == ("text_pair" in row)
    assert BYTES.decode(ids)[: length or 1].startswith("t" * min(length, 20))


def test_a_batch_is_as_wide_as_its_longest_row_and_has_a_mask_only_where_needed() -> None:
    task = fitted(ROWS)
    rows = [{"text": "abc", "label": "x"}, {"text": "t" * 11, "label": "y"}]
    features = [task.features(row, BYTES, backbone(Encoder))[0] for row in rows]
    batch = task.collate(features)
    assert batch["input_ids"].shape == (2, 13)
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 13]
    assert batch["class_labels"].tolist() == [0, 1]
    assert "attention_mask" not in task.collate(features[1:])


def test_several_labels_become_zeros_and_ones() -> None:
    task = fitted(SEVERAL)
    features = [task.features(row, BYTES, backbone(Encoder))[0] for row in SEVERAL]
    assert task.collate(features)["class_labels"].tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(("kind", "pooling"), [(Encoder, "mean"), (Decoder, "last")])
def test_pooling_is_what_suits_the_backbone_unless_it_is_chosen(
    kind: type[Transformer], pooling: str
) -> None:
    assert fitted(ROWS).head(backbone(kind))["pooling"] == pooling
    assert fitted(ROWS, pooling="first").head(backbone(kind))["pooling"] == "first"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_one_batch_is_learnt_by_heart(kind: type[Transformer], name: str) -> None:
    rows = SETS[name]
    task = fitted(rows, dropout=0.0)
    model = model_for(task, kind)
    assert overfit(task, model, BYTES, rows, n_steps=80) < 0.05
    predictions = task.predict(model, BYTES, rows, batch_size=3)
    assert task.score(predictions, rows)["accuracy"].value == 1
    assert task.row_scores(predictions, rows).tolist() == [1] * len(rows)


def test_predictions_are_in_the_order_of_the_rows_whatever_the_batch() -> None:
    task = fitted(ROWS)
    model = model_for(task, Encoder).train()
    rows = [{"text": "word " * n} for n in (7, 0, 3, 12, 1)]
    together = task.predict(model, BYTES, rows, batch_size=2)
    alone = [task.predict(model, BYTES, [row], batch_size=1)[0] for row in rows]
    assert model.training
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert one.details["probabilities"] == pytest.approx(other.details["probabilities"], abs=1e-5)
        assert sum(one.details["probabilities"].values()) == pytest.approx(1)
        assert one.confidence == max(one.details["probabilities"].values())


def test_a_sample_shows_both_ends_of_a_long_text_the_label_and_the_truth() -> None:
    task = fitted(ROWS)
    text = f"It began well. {'t' * 1000} And it ended badly."
    sample = task.sample({"text": text, "label": "x"}, Prediction(text="y", confidence=0.75))
    assert sample.input.startswith("It began well. t")
    assert sample.input.endswith("t And it ended badly.")
    assert " … " in sample.input
    assert (sample.output, sample.target) == ("y (0.75)", "x")
    assert task.sample({"text": ""}, Prediction(text="y")).target is None


def test_an_empty_answer_at_the_terminal_repeats_the_last_text() -> None:
    task = fitted(ROWS)
    assert task.row_from_input(["new"], []) == {"text": "new"}
    assert task.row_from_input([""], [({"text": "old"}, Prediction(text="x"))]) == {"text": "old"}
    assert task.row_from_input([""], []) == {"text": ""}


def test_pairs_are_asked_for_where_training_had_them_and_not_read_where_it_had_not() -> None:
    single = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    pairs = [{**row, "text_pair": "second"} for row in single]
    plain, paired = (TextClassification().fit(rows) for rows in (single, pairs))
    assert (plain.questions, paired.questions) == (("text",), ("text", "text_pair"))
    assert paired.row_from_input(["new", ""], [(pairs[0], Prediction(text="x"))]) == {
        "text": "new",
        "text_pair": "second",
    }
    assert (plain.texts(pairs[0]), paired.texts(pairs[0])) == (["a"], ["a", "second"])
    assert TextClassification(label_names=["x", "y"]).texts(pairs[0]) == ["a", "second"]  # not known


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = ["x"] * 6 + ["y"] * 3 + ["z"]
    task = fitted([{"text": "", "label": label} for label in labels], class_weights="balanced")
    objective = task.objective()
    assert isinstance(objective, SingleLabelObjective)
    expected = compute_class_weight("balanced", classes=np.array(["x", "y", "z"]), y=np.array(labels))
    assert objective._weights is not None
    assert objective._weights.numpy() == pytest.approx(expected, rel=1e-6)


def test_the_balanced_loss_of_a_model_that_always_guesses_is_that_of_a_guess() -> None:
    labels = [0] * 9 + [1] * 3 + [2] * 3
    rows = [{"text": "", "label": label} for label in labels]
    several = [{"text": "", "label": [str(label)]} for label in labels]
    for some, width in ((rows, 1), (several, 3)):
        task = fitted(some, class_weights="balanced")
        batch = task.collate([task.features(row, BYTES, backbone(Encoder))[0] for row in some])
        nats, n = task.objective().loss(lambda batch: torch.zeros(15, 3), batch)  # type: ignore[arg-type]
        assert n == 15 * width
        assert nats.item() / n == pytest.approx(np.log(3 if width == 1 else 2), rel=1e-5)


def test_the_loss_of_validation_is_the_mean_over_rows_of_batches_of_unequal_size() -> None:
    task = fitted(ROWS)
    model, objective = model_for(task, Encoder).eval(), task.objective()
    features = [task.features(row, BYTES, model.backbone)[0] for row in ROWS]
    metrics = objective.metrics()
    with torch.no_grad():
        for part in (features[:4], features[4:]):
            objective.update(metrics, model, task.collate(part))
        nats, n = objective.loss(model, task.collate(features))
    assert metrics.compute()["loss"].item() == pytest.approx(nats.item() / n, rel=1e-5)


def test_the_threshold_of_several_labels_is_chosen_on_validation_rows_unless_it_is_given() -> None:
    task = fitted(SEVERAL)
    predictions = [
        Prediction(text="", details={"probabilities": {"x": x, "y": y}})
        for x, y in [(0.4, 0.1), (0.35, 0.4), (0.2, 0.3), (0.1, 0.2)]
    ]
    tuned = task.calibrated(predictions, SEVERAL)
    assert tuned.threshold == 0.3
    assert tuned.score(predictions, SEVERAL)["accuracy"].value == 1
    assert task.score(predictions, SEVERAL)["accuracy"].value == 0.25
    assert fitted(SEVERAL, threshold=0.9).calibrated(predictions, SEVERAL).threshold == 0.9
    assert fitted(ROWS).calibrated([], ROWS).threshold is None


def test_the_objective_fits_the_kind_of_labels() -> None:
    assert isinstance(fitted(SEVERAL).objective(), MultiLabelObjective)
    assert isinstance(fitted(ROWS).objective(), SingleLabelObjective)

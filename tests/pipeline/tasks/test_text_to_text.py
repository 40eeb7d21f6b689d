"""Translation and summarisation as features, batches and answers, on each architecture that can write."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from datamodules.tokenizer import ByteLevelBPE
from modules.layers import LayerSpec
from modules.positions import Rotary
from modules.transformer import Decoder, Encoder, EncoderDecoder
from pipeline.errors import ConfigError
from pipeline.tasks.finetuning import Prediction
from pipeline.tasks.layouts import layout_of
from pipeline.tasks.summarize import Summarisation
from pipeline.tasks.text_to_text import TextToText
from pipeline.tasks.translate import Translation
from tests.pipeline.tasks.writers import LIMIT, TOKENIZER, WRITERS, labelled, overfit, read, writer

TRANSLATION = Translation(label_smoothing=0.0)
ROWS = [
    {"source": "a red hat", "target": "ein roter Hut", "target_language": "de"},
    {"source": "a red hat", "target": "一顶红帽子", "target_language": "zh"},
    {"source": "the old mill", "target": "die alte Mühle", "target_language": "de"},
]
TASKS: dict[str, tuple[TextToText, list[dict[str, Any]]]] = {
    "translate": (TRANSLATION, ROWS),
    "summarize": (
        Summarisation(label_smoothing=0.0),
        [{"text": "Anna went to the mill. It rained.", "summary": "Anna got wet."}],
    ),
}
EVERY_TASK = pytest.mark.parametrize("name", TASKS)
EVERY_WRITER = pytest.mark.parametrize("kind", WRITERS.values(), ids=WRITERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("translate", EncoderDecoder), ("translate", Decoder), ("summarize", Decoder)]
)
def test_a_batch_is_learnt_by_heart_and_then_written(name: str, kind: Any) -> None:
    task, rows = TASKS[name]
    model = writer(kind)
    assert overfit(task, model, rows) < 0.05
    for beams in (1, 3):
        found = replace(task, beams=beams).predict(model, TOKENIZER, rows, batch_size=2)
        assert [prediction.text for prediction in found] == [task.references(row)[0] for row in rows]
        assert all(prediction.confidence is not None and prediction.confidence > 0.9 for prediction in found)


@EVERY_WRITER
def test_only_the_target_and_its_end_are_labelled(kind: Any) -> None:
    (feature,) = TRANSLATION.features(ROWS[0], TOKENIZER, writer(kind).backbone)
    assert labelled(feature) == "ein roter Hut<eos>"


def test_an_encoder_reads_the_source_and_a_decoder_the_target_after_its_beginning() -> None:
    (feature,) = TRANSLATION.features(ROWS[0], TOKENIZER, writer(EncoderDecoder).backbone)
    assert read(feature) == "<bos>de: a red hat<eos>"
    assert TOKENIZER.decode(feature["decoder_input_ids"], keep_special=True) == "<bos>ein roter Hut"


def test_source_and_target_are_read_and_written_in_their_own_vocabularies() -> None:
    written = ByteLevelBPE(vocab_size=305).train(["ein roter Hut"] * 3)
    pair = TOKENIZER.with_target(written)
    (feature,) = TRANSLATION.features(ROWS[0], pair, writer(EncoderDecoder).backbone)
    assert read(feature) == "<bos>de: a red hat<eos>"
    assert feature["labels"].tolist() == [*written.encode("ein roter Hut"), written.eos_id]


def test_texts_are_divided_between_the_vocabularies() -> None:
    (columns,) = TRANSLATION.vocabularies
    assert columns == ("source", "target")
    assert TRANSLATION.vocabularies[columns](ROWS[0]) == ["de: a red hat", "ein roter Hut"]
    apart = replace(TRANSLATION, separate_vocabularies=True).vocabularies
    assert {columns: texts(ROWS[0]) for columns, texts in apart.items()} == {
        ("source",): ["de: a red hat"],
        ("target",): ["ein roter Hut"],
    }


def test_a_decoder_reads_source_and_target_and_foretells_each_token_of_the_target() -> None:
    (feature,) = TRANSLATION.features(ROWS[0], TOKENIZER, writer(Decoder).backbone)
    assert read(feature) == "<bos>de: a red hat<sep>ein roter Hut"
    following = np.append(feature["input_ids"][1:], TOKENIZER.eos_id)
    known = feature["labels"] != -100
    assert (feature["labels"][known] == following[known]).all()


@pytest.mark.slow
@EVERY_WRITER
def test_padding_changes_neither_loss_nor_answers(kind: Any) -> None:
    model = writer(kind)
    features = [feature for row in ROWS for feature in TRANSLATION.features(row, TOKENIZER, model.backbone)]
    objective = TRANSLATION.objective()
    with torch.no_grad():
        together, n_together = objective.loss(model, TRANSLATION.collate(features))
        alone = [objective.loss(model, TRANSLATION.collate([feature])) for feature in features]
    assert n_together == sum(n_tokens for _, n_tokens in alone)
    assert together.item() == pytest.approx(sum(nats.item() for nats, _ in alone), rel=1e-5)
    answers = TRANSLATION.predict(model, TOKENIZER, ROWS, batch_size=3)
    singly = TRANSLATION.predict(model, TOKENIZER, ROWS, batch_size=1)
    assert [answer.text for answer in answers] == [answer.text for answer in singly]
    assert [answer.confidence for answer in answers] == pytest.approx(
        [a.confidence for a in singly], rel=1e-3
    )


def test_a_batch_tells_where_its_labels_are_and_masks_only_what_is_padded() -> None:
    backbone = writer(EncoderDecoder).backbone
    targets = ("y", "yyy")
    rows = [{"source": "x" * 14, "target": target} for target in targets]
    features = [feature for row in rows for feature in TRANSLATION.features(row, TOKENIZER, backbone)]
    batch = TRANSLATION.collate(features)
    assert set(batch) == {"input_ids", "decoder_input_ids", "decoder_attention_mask", "labels", "label_index"}
    assert batch["labels"].flatten()[batch["label_index"]].tolist() == [
        token for target in targets for token in (*TOKENIZER.encode(target), TOKENIZER.eos_id)
    ]
    assert batch["label_index"].numel() == (batch["labels"] != -100).sum()


@EVERY_WRITER
@EVERY_TASK
def test_a_row_of_100_000_characters_is_cut_to_what_fits(name: str, kind: Any) -> None:
    task, _ = TASKS[name]
    model = writer(kind)
    row = dict.fromkeys((*task.inputs, *task.targets), "word " * 20_000)
    (feature,) = task.features(row, TOKENIZER, model.backbone)
    (answer,) = task.predict(model, TOKENIZER, [row], batch_size=4)
    assert max(map(len, feature.values())) <= LIMIT
    assert read(feature).startswith("<bos>word word ")
    assert not labelled(feature).endswith("<eos>")
    assert answer.text is not None


def test_a_source_gives_a_decoder_what_its_target_leaves_and_at_least_half() -> None:
    backbone = writer(Decoder).backbone
    (short,) = TRANSLATION.features({"source": "s" * 99, "target": "t" * 4}, TOKENIZER, backbone)
    (long,) = TRANSLATION.features({"source": "s" * 99, "target": "t" * 99}, TOKENIZER, backbone)
    assert labelled(short) == "tttt<eos>"
    assert len(short["input_ids"]) == len(long["input_ids"]) == LIMIT
    n_source = LIMIT + 1 - LIMIT // 2 - 2  # what is read and written, less the target, <bos> and <sep>
    assert read(long) == f"<bos>{'s' * n_source}<sep>{'t' * (LIMIT // 2 - 1)}"


def test_a_target_longer_than_asked_for_is_cut_and_its_end_is_not_learnt() -> None:
    task = replace(TRANSLATION, max_target_tokens=3)
    (feature,) = task.features(ROWS[0], TOKENIZER, writer(EncoderDecoder).backbone)
    assert labelled(feature) == "ein"


@EVERY_WRITER
def test_an_answer_is_no_longer_than_asked_for(kind: Any) -> None:
    task = replace(TRANSLATION, max_target_tokens=3, beams=1)
    answers = task.predict(writer(kind), TOKENIZER, ROWS, batch_size=2)
    assert all(len(TOKENIZER.encode(answer.text)) <= 9 for answer in answers)  # a cut byte becomes three


@EVERY_WRITER
def test_an_empty_source_can_be_answered_and_no_rows_have_no_answers(kind: Any) -> None:
    assert len(TRANSLATION.predict(writer(kind), TOKENIZER, [{"source": ""}], batch_size=2)) == 1
    assert TRANSLATION.predict(writer(kind), TOKENIZER, [], batch_size=2) == []


def test_each_of_several_summaries_is_learnt() -> None:
    row = {"text": "long", "summary": ["one", "two"]}
    features = Summarisation().features(row, TOKENIZER, writer(EncoderDecoder).backbone)
    assert list(map(labelled, features)) == ["one<eos>", "two<eos>"]


def test_labels_are_smoothed_in_training_and_not_when_measured() -> None:
    model = writer(Decoder)
    smoothed = replace(TRANSLATION, label_smoothing=0.3)
    batch = TRANSLATION.collate(TRANSLATION.features(ROWS[0], TOKENIZER, model.backbone))
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(30)
        plain, n_tokens = TRANSLATION.objective().loss(model, batch)
        other, _ = smoothed.objective().loss(model, batch)
    metrics = smoothed.objective().metrics()
    smoothed.objective().update(metrics, model, batch)
    assert other.item() != pytest.approx(plain.item(), rel=1e-2)
    assert metrics.compute()["loss"].item() == pytest.approx(plain.item() / n_tokens, rel=1e-5)


def test_an_encoder_alone_cannot_write() -> None:
    encoder = Encoder(50, n_layers=1, max_seq_len=16, layer=LayerSpec(8, n_heads=1), position=Rotary())
    with pytest.raises(
        ConfigError,
        match="Encoder cannot generate text; expected an EncoderDecoder or a Decoder\nhint: start",
    ):
        layout_of(encoder)


@pytest.mark.parametrize(
    ("task", "row", "problem"),
    [
        (Translation(), {"source": " ", "target": "x"}, "row 2 of train: source is empty"),
        (Translation(), {"source": "x", "target": ""}, "row 2 of train: target is empty"),
        (Translation(), {"source": None, "target": "x"}, "row 2 of train: source is missing"),
        (Translation(), {"source": "x", "target": 5}, "row 2 of train: target is of type int"),
        (Translation(), {"source": "x", "target": ["y"]}, "row 2 of train: target is of type list"),
        (
            Translation(),
            {"source": "x", "target": "y", "target_language": "de"},
            "row 2 of train: target_language is 'de'; expected a language in every row or in none",
        ),
        (Summarisation(), {"text": "x", "summary": []}, "row 2 of train: summary is of type list"),
        (Summarisation(), {"text": "x", "summary": ["y", ""]}, "row 2 of train: summary is empty"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_named_with_what_is_wrong(
    task: TextToText, row: dict[str, Any], problem: str
) -> None:
    good = dict.fromkeys((*task.inputs, *task.targets), "text")
    task.check([good], "train")
    with pytest.raises(DataError) as error:
        task.check([good, row], "train")
    assert str(error.value).startswith(problem)


def test_a_source_that_is_no_text_is_named_when_it_is_asked() -> None:
    with pytest.raises(DataError, match="row 2: source is missing"):
        TRANSLATION.predict(writer(Decoder), TOKENIZER, [{"source": "x"}, {"source": None}], batch_size=2)


@pytest.mark.slow
@EVERY_WRITER
def test_a_text_that_was_cut_is_marked_and_counted(kind: Any) -> None:
    model = writer(kind)
    overfit(TRANSLATION, model, ROWS)
    whole = TRANSLATION.predict(model, TOKENIZER, ROWS, batch_size=3)
    assert [one.details["finish_reason"] for one in whole] == ["stop"] * 3
    assert TRANSLATION.cautions(whole) == []
    task = replace(TRANSLATION, max_target_tokens=14, beams=1)
    cut = task.predict(model, TOKENIZER, ROWS, batch_size=3)
    assert [one.details["finish_reason"] for one in cut] == ["stop", "length", "length"]
    assert task.sample(ROWS[2], cut[2]).output == f"{cut[2].text} [cut at the maximum length]"
    (caution,) = task.cautions(cut)
    assert caution.startswith("2 of 3 texts were cut at max_target_tokens=14")


@pytest.mark.slow
@EVERY_WRITER
@pytest.mark.parametrize("language", [{}, {"target_language": "de"}])
def test_an_empty_source_has_an_empty_answer_that_is_marked(kind: Any, language: dict[str, str]) -> None:
    rows = [{"source": text} | language for text in ("", "a red hat", " \n")]
    model = writer(kind)
    empty, asked, blank = TRANSLATION.predict(model, TOKENIZER, rows, batch_size=2)
    for nothing in (empty, blank):
        assert (nothing.text, nothing.confidence, nothing.details) == (
            "", None, {"finish_reason": "empty_source"},
        )  # fmt: skip
    assert asked == TRANSLATION.predict(model, TOKENIZER, rows[1:2], batch_size=2)[0]
    assert TRANSLATION.predict(model, TOKENIZER, rows[:1], batch_size=2) == [empty]


def test_a_sample_shows_source_answer_and_first_truth() -> None:
    prediction = TRANSLATION.predict(writer(Decoder), TOKENIZER, ROWS[:1], batch_size=1)[0]
    sample = TRANSLATION.sample(ROWS[0], prediction)
    assert (sample.input, sample.output, sample.target) == (
        "de: a red hat", f"{prediction.text}{prediction.remark}", "ein roter Hut",
    )  # fmt: skip
    assert Summarisation().sample({"text": "x"}, prediction).target is None


def test_a_person_may_name_the_language_or_leave_it_out() -> None:
    assert TRANSLATION.row_from_input(["hello", "de"], []) == {"source": "hello", "target_language": "de"}
    assert TRANSLATION.row_from_input(["hello", ""], []) == {"source": "hello"}
    assert Summarisation().row_from_input(["a story"], []) == {"text": "a story"}
    for task in (TRANSLATION, Summarisation()):
        assert task.head(writer(Decoder).backbone) == {"_target_": "modules.heads.LMHead"}


def test_languages_are_those_of_the_training_rows_and_others_are_refused() -> None:
    task = TRANSLATION.fit(ROWS)
    assert task.target_languages == ["de", "zh"]
    assert task.input_columns.required == ("source", "target_language")
    for name, found in (("xx", "'xx'"), (None, "missing")):
        row = {"source": "a hat", "target": "x", "target_language": name}
        message = f"target_language is {found}; expected a language of the training rows: 'de', 'zh'"
        with pytest.raises(DataError, match=f"^row 2: {message}"):
            task.predict(writer(Decoder), TOKENIZER, [ROWS[0], row], batch_size=2)
        with pytest.raises(DataError, match=f"^row 2 of test: {message}"):
            task.check([ROWS[0], row], "test")


def test_the_only_language_need_not_be_named_and_none_is_named_to_a_model_without() -> None:
    one, none = TRANSLATION.fit(ROWS[:1]), TRANSLATION.fit([{"source": "a", "target": "b"}])
    assert one.source({"source": "a hat"}) == "de: a hat"
    assert (one.questions, none.questions) == (("text",), ("text",))
    assert TRANSLATION.questions == ("text", "target language")  # a bundle that does not know
    assert none.source({"source": "a hat"}) == "a hat"
    with pytest.raises(DataError, match="expected a language of the training rows: there are none"):
        none.check([{"source": "a", "target": "b", "target_language": "de"}], "test")


def test_an_empty_line_at_the_terminal_repeats_the_text_or_its_language() -> None:
    task = TRANSLATION.fit(ROWS)
    before = [({"source": "old", "target_language": "zh"}, Prediction(text="x"))]
    assert task.row_from_input(["new", ""], before) == {"source": "new", "target_language": "zh"}
    assert task.row_from_input(["", "de"], before) == {"source": "old", "target_language": "de"}

"""Token classification: entities as seqeval has them, windows that lose no word, tags at characters."""

import random
import warnings
from typing import Any

import numpy as np
import pytest
import seqeval.metrics as seqeval
import torch
from seqeval.metrics.sequence_labeling import get_entities

from datamodules.corruption import IGNORE
from datamodules.errors import DataError
from datamodules.storyworld import StoryWorld
from datamodules.tokenizer import ByteLevelBPE, Bytes
from modules.heads import TokenHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Decoder, Encoder
from pipeline.tasks.finetuning import Prediction, Row
from pipeline.tasks.tag import TokenClassification
from pipeline.tasks.tag.entities import entities
from pipeline.tasks.tag.windows import windows

BYTES = Bytes().train([])
ROWS: list[Row] = [
    {"tokens": ["Ida", "saw", "New", "York", "."], "tags": ["B-PER", "O", "B-LOC", "I-LOC", "O"]},
    {"tokens": ["米", "拉", "走", "了"], "tags": ["B-PER", "I-PER", "O", "O"]},
    {"tokens": ["Nothing", "here"], "tags": ["O", "O"]},
]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def random_tags(n: int, seed: int) -> list[list[str]]:
    """Rows of tags in any order, so that most hold illegal sequences such as O I-PER or B-PER I-LOC."""
    draw = random.Random(seed)
    return [[draw.choice(TAGS) for _ in range(draw.randint(1, 12))] for _ in range(n)]


def prediction(tags: list[str]) -> Prediction:
    return Prediction(text="", confidence=0.5, details={"tags": tags})


def model(limit: int = 64) -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(16, n_heads=2)
    backbone = Encoder(BYTES.vocab_size, n_layers=1, max_seq_len=limit, layer=layer, position=Rotary())
    return Model(backbone, TokenHead(16, n_classes=5))


def test_entities_are_those_of_seqeval_after_illegal_tags_too() -> None:
    for tags in [["O", "I-PER", "I-LOC", "B-LOC", "I-LOC", "I-PER"], *random_tags(300, 0)]:
        expected = [(kind, first, last) for kind, first, last in get_entities(tags)]
        assert [(one.type, one.first, one.end - 1) for one in entities(tags)] == expected


def test_scores_are_those_of_seqeval() -> None:
    target, noise = random_tags(200, 1), random.Random(2)
    said = [[tag if noise.random() < 0.7 else noise.choice(TAGS) for tag in tags] for tags in target]
    rows = [{"tokens": ["x"] * len(tags), "tags": tags} for tags in target]
    task = TokenClassification().fit(rows)
    found = task.score([prediction(tags) for tags in said], rows, intervals=True)
    assert found["f1"].value == pytest.approx(seqeval.f1_score(target, said))
    assert found["precision"].value == pytest.approx(seqeval.precision_score(target, said))
    assert found["recall"].value == pytest.approx(seqeval.recall_score(target, said))
    assert found["accuracy"].value == pytest.approx(seqeval.accuracy_score(target, said))
    report: Any = seqeval.classification_report(target, said, output_dict=True)
    assert {name: score.value for name, score in found.items() if "_" in name} == pytest.approx(
        {f"f1_{kind}": report[kind]["f1-score"] for kind in ("LOC", "PER")}
    )
    low, high = found["f1"].low, found["f1"].high
    assert low is not None
    assert high is not None
    assert low < found["f1"].value < high


def test_nothing_found_scores_nothing_and_an_empty_row_is_right() -> None:
    task = TokenClassification().fit(ROWS)
    nothing = [prediction(["O"] * len(row["tokens"])) for row in ROWS]
    assert task.score(nothing, ROWS)["f1"].value == 0
    assert task.row_scores(nothing, ROWS).tolist() == [0, 0, 1]
    half = [prediction(["B-PER", "O", "O", "O", "O"]), *nothing[1:]]
    assert task.row_scores(half, ROWS)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("limit", [12, 17, 40, 500])
@pytest.mark.parametrize("stride", [0, 5, 64])
def test_every_word_is_tagged_just_once_at_its_first_token_however_long_the_row(
    limit: int, stride: int
) -> None:
    words = ["a", "longer", "word", "of", "twenty-two-characters", "米", "拉", ".", "é", "x" * 50] * 4
    found = windows(words, BYTES, limit=limit, stride=stride)
    assert np.concatenate([window.words for window in found]).tolist() == list(range(len(words)))
    for window in found:
        assert len(window.ids) <= limit
        assert (window.ids[0], window.ids[-1]) == (BYTES.bos_id, BYTES.eos_id)
        for word, place in zip(window.words, window.places, strict=True):
            piece = BYTES.decode(window.ids[place:].tolist()).lstrip()
            assert piece[:1] == words[word][:1]


def test_the_context_of_a_word_is_on_both_sides_where_windows_overlap() -> None:
    first, second, *_ = windows(["w"] * 40, BYTES, limit=22, stride=10)
    assert first.places[-1] < len(first.ids) - 4
    assert second.places[0] > 4


def test_words_of_a_learned_vocabulary_share_no_token() -> None:
    tokenizer = ByteLevelBPE(vocab_size=400).train(["米拉走了 Ida saw New York."] * 50)
    for row in ROWS:
        (window,) = windows(row["tokens"], tokenizer, limit=64, stride=8)
        assert len(set(window.places.tolist())) == len(row["tokens"])
    assert tokenizer.decode(window.ids[1:-1].tolist()) == "Nothing here"


def test_only_first_tokens_are_labelled() -> None:
    task = TokenClassification().fit(ROWS)
    assert task.tag_names == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    (feature,) = task.features(ROWS[0], BYTES, model().backbone)
    labels = feature["labels"]
    assert labels[labels != IGNORE].tolist() == [3, 0, 1, 2, 0]
    assert labels[1] == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 2 of train: there are 2 words, but 1 tags"),
        (
            {"tokens": ["a"], "tags": ["E-PER"]},
            "row 2 of train: the tag of 'a' is 'E-PER'; expected O, B-TYPE",
        ),
        ({"tokens": ["a"], "tags": [3]}, "write the names of the tags instead of their numbers"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "word 2 is ' '"),
        ({"tokens": [], "tags": []}, "tokens is empty"),
        ({"tokens": "a text", "tags": ["O"]}, "tokens is one text"),
        ({"tokens": ["a"], "tags": None}, "tags is missing"),
        (
            {"tokens": ["a"], "tags": ["B-ORG"]},
            "no training row has this type; expected one of the types LOC, PER",
        ),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(row: Row, said: str) -> None:
    with pytest.raises(DataError) as caught:
        TokenClassification().fit(ROWS).check([ROWS[0], row], "train")
    assert said in str(caught.value)


def test_training_rows_without_an_entity_are_refused() -> None:
    with pytest.raises(DataError, match="no training row has an entity"):
        TokenClassification().fit(ROWS[2:]).check(ROWS[2:], "train")


def test_rows_are_learned_by_heart_and_predicted_with_characters() -> None:
    task = TokenClassification(dropout=0.0).fit(ROWS)
    net = model()
    batch = task.collate([one for row in ROWS for one in task.features(row, BYTES, net.backbone)])
    objective, optimizer = task.objective(), torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        nats, n_words = objective.loss(net, batch)
        (nats / n_words).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert n_words == 11
    answers = task.predict(net, BYTES, ROWS, batch_size=2)
    assert [answer.details["tags"] for answer in answers] == [row["tags"] for row in ROWS]
    assert answers[0].text == "[Ida PER] saw [New York LOC]."
    assert answers[1].text == "[米拉 PER]走了"
    for answer in answers:
        for one in answer.details["entities"]:
            assert answer.details["plain_text"][one["start"] : one["end"]] == one["text"]
            assert 0.2 < one["confidence"] <= 1
    (typed,) = task.predict(net, BYTES, [task.row_from_input(["Ida saw New York."], [])], batch_size=1)
    assert typed == answers[0]
    assert task.row_from_input([""], [({"tokens": "old"}, typed)]) == {"tokens": "old"}
    sample = task.sample(ROWS[0], answers[0])
    assert (sample.input, sample.target) == ("Ida saw New York.", "[Ida PER] saw [New York LOC].")
    assert task.sample({"tokens": ["Ida"]}, answers[0]).target is None
    with pytest.raises(DataError, match="row 1: tokens is empty"):
        task.predict(net, BYTES, [{"tokens": ""}], batch_size=1)


def test_a_decoder_reads_both_directions_unless_told_otherwise() -> None:
    assert TokenClassification().architecture(Decoder) is Encoder
    assert TokenClassification(both_directions=False).architecture(Decoder) is Decoder


def test_the_story_world_is_not_solved_by_its_words_alone() -> None:
    world = StoryWorld(400, n_validation_rows=100, view="tag")
    train, rows = list(world.rows("train")), list(world.rows("validation"))
    task = TokenClassification().fit(train)
    assert task.entity_types == ["PERSON", "PLACE", "THING"]
    assert 0.5 < float(task.baselines(train, rows)["words"]().mean()) < 0.85
    assert TokenClassification(word_baseline=False).fit(train).baselines(train, rows) == {}


def test_the_plots_show_each_type() -> None:
    task = TokenClassification().fit(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = task.figures([prediction(list(row["tags"])) for row in ROWS], ROWS)
    assert found.keys() == {"entity_types", "confusion_matrix"}
    labels = [label.get_text() for label in found["entity_types"].axes[0].get_yticklabels()]
    assert labels == ["LOC (1)", "PER (2)"]
    assert found["confusion_matrix"].axes[0].get_title() == "11 of 11 correct"

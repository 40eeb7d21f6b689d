"""The benchmark of imported weights: both sides take turns, read the same windows and take the same steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.imported_lora import measure, their_batch
from benchmarks.imported_trainer import Reader, as_their_window
from benchmarks.turns import median_ratio, take_turns
from pipeline.__main__ import main
from pipeline.runs.bundle import load_bundle
from pipeline.tasks.chat import Dialogue
from pipeline.tasks.qa.task import ExtractiveQA
from tests.pipeline.interop.folders import save_bert, save_llama

TURNS = [
    {"role": role, "text": text}
    for role, text in (
        ("user", "Where is it?"),
        ("assistant", "At home."),
        ("user", "Why?"),
        ("assistant", "So."),
    )
]


def test_what_was_measured_is_there_after_each_turn_and_a_ratio_after_each_round() -> None:
    numbers = iter([1.0, 2.0, 8.0, 2.0])
    turns = {name: lambda: {"s": next(numbers)} for name in ("ours", "theirs")}
    ratios, sizes = [], []
    for found in take_turns(turns, 2):
        sizes.append({name: len(some) for name, some in found.items()})
        ratios.append(median_ratio(found, "ours", "theirs", "s"))
    assert sizes == [
        {"ours": 1, "theirs": 0}, {"ours": 1, "theirs": 1}, {"ours": 1, "theirs": 2}, {"ours": 2, "theirs": 2}
    ]  # fmt: skip
    assert ratios == [None, 2.0, 2.0, 3.0]


def test_a_window_is_given_to_bert_with_its_types_and_no_answer_at_the_first_token() -> None:
    feature = {
        "input_ids": np.array([1, 7, 2, 8, 9, 2]),
        "passage_start": np.array([3]), "answer_span": np.array([3, 4]),
    }  # fmt: skip
    assert as_their_window(feature) == {
        "input_ids": [1, 7, 2, 8, 9, 2], "token_type_ids": [0, 0, 0, 1, 1, 1],
        "start_positions": 3, "end_positions": 4,
    }  # fmt: skip
    none = as_their_window({**feature, "answer_span": np.array([5, 5])})
    assert (none["start_positions"], none["end_positions"]) == (0, 0)


@pytest.mark.slow
def test_a_reader_of_theirs_is_asked_with_the_windows_that_it_was_trained_on(tmp_path: Path) -> None:
    save_bert(tmp_path / "theirs", transformers.BertModel)
    words = (f"runs_dir={tmp_path}/runs", "name=a", "tracking=off")
    assert main(["import", f"source={tmp_path}/theirs", *words]) == 0
    bundle = load_bundle(tmp_path / "runs/a/bundles/best")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "theirs").eval()
    task = ExtractiveQA(mark_question_words=False)
    row = {"context": "A bird sang.", "question": "Who?", "answers": {"text": ["bird"], "answer_start": [2]}}
    (feature,) = task.features(row, bundle.tokenizer, bundle.model.backbone)
    window = as_their_window(feature)
    places = {"start_positions": torch.tensor([3]), "end_positions": torch.tensor([4])}
    with torch.no_grad():
        ours = Reader(theirs, bundle.model)(task.collate([feature]))
        expected = theirs(
            input_ids=torch.tensor([window["input_ids"]]),
            token_type_ids=torch.tensor([window["token_type_ids"]]),
            **places,
        )
    inside = slice(int(feature["passage_start"][0]), len(window["input_ids"]))
    assert torch.allclose(ours[0, inside, 0], expected.start_logits[0, inside], atol=1e-5)
    reader: Any = Reader(theirs, bundle.model)
    (prediction,) = task.predict(reader, bundle.tokenizer, [row], batch_size=1)
    assert prediction.text in row["context"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_lora_takes_the_same_steps_as_peft(tmp_path: Path) -> None:
    save_llama(tmp_path / "theirs", tie_word_embeddings=False, max_position_embeddings=128)
    words = (f"runs_dir={tmp_path}/runs", "name=a", "tracking=off")
    assert main(["import", f"source={tmp_path}/theirs", *words]) == 0
    found = {}
    for side in ("ours", "peft"):
        bundle, task = load_bundle(tmp_path / "runs/a/bundles/best"), Dialogue()
        rows = [{"turns": TURNS}, {"turns": TURNS[:2]}]
        batch = [each for row in rows for each in task.features(row, bundle.tokenizer, bundle.model.backbone)]
        assert int((their_batch(batch)["labels"] != -100).sum()) == sum(
            (each["labels"] != -100).sum() for each in batch
        )
        found[side] = measure(side, bundle, str(tmp_path / "theirs"), task, [batch] * 4)
    assert found["ours"]["losses"] == pytest.approx(found["peft"]["losses"], abs=1e-4)
    assert found["ours"]["losses"][0] > found["ours"]["losses"][3] + 1e-5
    assert found["ours"]["trained_parameters"] == found["peft"]["trained_parameters"]

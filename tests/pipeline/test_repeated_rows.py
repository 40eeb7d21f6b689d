"""Rows of two splits are counted wherever a corpus is read, and kept with what was made from it."""

import json
from pathlib import Path

import pytest

from pipeline.config.compose import compose
from pipeline.config.tasks import finetuning_task
from pipeline.prepare import load_corpus
from pipeline.stages.finetune.compose import read_labelled
from pipeline.training.export import corpus_record


@pytest.fixture(autouse=True)
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, texts in (("a", ["x", "y", "z"]), ("v", ["x", "other", "Y"])):
        rows = [{"text": text, "label": "no" if text == "x" else "yes"} for text in texts]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=files", "data.train=a.jsonl", "data.validation=v.jsonl"]


def test_labelled_rows_are_compared_by_what_the_model_reads(words: list[str]) -> None:
    config = compose("finetune", ["task=classify", *words])
    corpus = read_labelled(config, finetuning_task(config)).corpus
    assert corpus_record(corpus)["repeated"] == {"validation in train": 1}


def test_raw_text_is_compared_as_it_is_after_cleaning(words: list[str]) -> None:
    for more, count in (([], 1), (["cleaning.lowercase=true"], 2)):
        corpus, _ = load_corpus(compose("pretrain", [*words, *more]))
        assert corpus.repeated == {"validation in train": count}

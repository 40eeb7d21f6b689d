"""Every yaml of configs/data for fine-tuning: it composes, and its places in the mirror are right."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Columns, Mixture
from pipeline.config.compose import compose
from pipeline.prepare import construct

COLUMNS = {
    "classify": Columns(("text", "label"), ("text_pair",)),
    "qa": Columns(("context", "question", "answers")),
    "translate": Columns(("source", "target"), ("target_language",)),
    "summarize": Columns(("text", "summary")),
    "chat": Columns(("turns",)),
}
MIRRORED = {
    "classify": ("ag_news", "sst2", "sst2_sentences", "movie_reviews", "banking77", "tnews", "film_reviews"),
    "qa": ("squad", "squad_v2", "cmrc2018", "drcd"),
    "translate": ("multi30k", "tatoeba_en_zh"),
    "summarize": ("samsum", "dialogsum", "aeslc", "scitldr"),
    "chat": ("sgd", "chatterbot", "chatterbot_zh"),
}
ON_THE_HUB_ONLY = ("imdb", "opus_books", "opus100_en_zh", "cnn_dailymail", "daily_dialog")
REAL = os.environ.get("PRELUDE_DATA", "")


def source_of(name: str, *overrides: str) -> Any:
    return construct(compose("pretrain", [f"data={name}", *overrides]).data)


@pytest.mark.parametrize("name", [*(name for names in MIRRORED.values() for name in names), *ON_THE_HUB_ONLY])
def test_every_configured_corpus_can_be_constructed(name: str) -> None:
    source_of(name)


@pytest.mark.parametrize("task", COLUMNS)
def test_the_story_world_has_a_corpus_for_every_task(task: str) -> None:
    source = source_of(
        f"storyworld_{task}", "data.n_train_rows=5", "data.n_validation_rows=2", "data.n_test_rows=2"
    )
    corpus = source.load(COLUMNS[task])
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (5, 2, 2)


def test_a_mixture_is_composed_of_other_yaml_files() -> None:
    mixture = source_of("film_reviews")
    assert isinstance(mixture, Mixture)
    assert {name: type(source).__name__ for name, source in mixture.sources.items()} == {
        "sentences": "Mirror",
        "reviews": "Mirror",
    }
    assert mixture.weights == {"sentences": 1, "reviews": 1}


def test_pairs_of_english_and_chinese_are_read_from_each_split(tmp_path: Path) -> None:
    """From a folder that is laid out as the data set on the hub is."""
    for split in ("train", "validation", "test"):
        pair = {"translation": {"en": f"the {split}", "zh": f"一次 {split}"}}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(pair) + "\n")
    there = (f"data.path={tmp_path}", "data.config_name=null", "data.mirror=null")
    corpus = source_of("opus100_en_zh", *there).load(COLUMNS["translate"])
    for split, rows in (("train", corpus.train), ("validation", corpus.validation), ("test", corpus.test)):
        assert list(rows) == [{"source": f"the {split}", "target": f"一次 {split}"}]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="PRELUDE_DATA is not set")
@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, names in MIRRORED.items() for name in names]
)
def test_the_configured_places_in_the_mirror_are_right(
    task: str, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    corpus = source_of(name).load(COLUMNS[task])
    assert corpus.n_train_rows
    assert corpus.n_validation_rows
    assert (corpus.test is None) == (name in ("drcd", "chatterbot", "chatterbot_zh"))

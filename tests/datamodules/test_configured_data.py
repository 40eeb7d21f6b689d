"""Every corpus that the page on fine-tuning lists: it composes, and its places in the mirror are right."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Columns, Hub, Mixture
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.tasks import finetuning_tasks
from pipeline.tasks.finetuning import FinetuneTask

REAL = os.environ.get("PRELUDE_DATA", "")


def source_of(name: str, *overrides: str) -> Any:
    return construct(compose("pretrain", [f"data={name}", *overrides]).data)


def corpora() -> dict[str, list[str]]:
    """The corpora of each task, as the table of the page on fine-tuning lists them."""
    page = Path(__file__).parents[2].joinpath("docs/finetuning.md").read_text(encoding="utf-8")
    table = page[page.index("| task | story world") :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {task: re.findall(r"\w+", " ".join(cells)) for task, *cells in rows}


CORPORA = [(task, name) for task, names in corpora().items() for name in names]


def columns_of(task: str) -> Columns:
    return construct(compose("finetune", [f"task={task}"]).task, FinetuneTask).columns


@pytest.mark.parametrize("name", [name for _, name in CORPORA])
def test_every_configured_corpus_can_be_constructed(name: str) -> None:
    source_of(name)


@pytest.mark.parametrize("task", finetuning_tasks())
def test_the_story_world_has_a_corpus_for_every_task(task: str) -> None:
    source = source_of(
        f"storyworld_{task}", "data.n_train_rows=5", "data.n_validation_rows=2", "data.n_test_rows=2"
    )
    corpus = source.load(columns_of(task))
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (5, 2, 2)


def test_a_mixture_is_composed_of_other_yaml_files() -> None:
    mixture = source_of("film_reviews")
    assert isinstance(mixture, Mixture)
    assert {name: type(source).__name__ for name, source in mixture.sources.items()} == {
        "sentences": "Mirror",
        "reviews": "Mirror",
    }
    assert mixture.weights == {"sentences": 1, "reviews": 1}


@pytest.mark.slow
def test_pairs_of_english_and_chinese_are_read_from_each_split(tmp_path: Path) -> None:
    """From a folder that is laid out as the data set on the Hub is."""
    for split in ("train", "validation", "test"):
        pair = {"translation": {"en": f"the {split}", "zh": f"一次 {split}"}}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(pair) + "\n")
    there = (f"data.path={tmp_path}", "data.config_name=null", "data.mirror=null")
    corpus = source_of("opus100_en_zh", *there).load(columns_of("translate"))
    for split, rows in (("train", corpus.train), ("validation", corpus.validation), ("test", corpus.test)):
        assert list(rows) == [{"source": f"the {split}", "target": f"一次 {split}"}]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="PRELUDE_DATA is not set")
@pytest.mark.parametrize(("task", "name"), [pair for pair in CORPORA if "storyworld" not in pair[1]])
def test_the_configured_places_in_the_mirror_are_right(
    task: str, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    source = source_of(name)
    if isinstance(source, Hub):
        there = source.mirror_train or []
        patterns = [there] if isinstance(there, str) else list(there)
        if not any(any(Path(REAL).glob(pattern)) for pattern in patterns):
            pytest.skip("not in this mirror")
    corpus = source.load(columns_of(task))
    assert corpus.n_train_rows
    assert corpus.n_validation_rows
    if not isinstance(source, Mixture):
        has_test = source.mirror_test if isinstance(source, Hub) else source.test
        assert (corpus.test is None) == (has_test is None)

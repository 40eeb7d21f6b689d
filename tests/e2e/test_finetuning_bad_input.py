"""What a user can give wrong to fine-tune and to predict: one line, and no run or file is left."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main
from tests.e2e.conftest import MOODS, QUICK, Outcome, files, labelled

Call = Callable[..., Outcome]
NOTHING = ("init_from=none", "tokenizer=bytes")
CONTEXT = "The cat sat on the red mat, said number {}."


def rows_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def questions(answer: str = "red mat", shift: int = 0) -> list[dict[str, Any]]:
    """Rows of which the last has this answer, said to begin so many characters later than it does."""
    contexts = [CONTEXT.format(i) for i in range(30)]
    start = contexts[0].index("red mat")
    rows = [{"context": c, "question": "Where?", "answers": answers_of("red mat", start)} for c in contexts]
    return [*rows[:-1], {**rows[-1], "answers": answers_of(answer, start + shift)}]


def answers_of(text: str, start: int) -> dict[str, list[Any]]:
    return {"text": [text], "answer_start": [start]}


def pairs(bad: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"source": f"a {i}", "target": f"b {i}"} | (bad if i == 5 else {}) for i in range(40)]


def texts(bad: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"text": f"t {i}", "label": "ab"[i % 2]} | (bad if i == 5 else {}) for i in range(40)]


def runs(folder: Path) -> list[str]:
    return sorted(run.name for run in folder.glob("runs/*"))


@pytest.mark.parametrize(
    ("task", "rows", "says"),
    [
        (
            "classify",
            texts({"label": 7}),
            "line 6: column 'label' contains a number; expected text, as before",
        ),
        ("qa", questions("blue mat"), "the answer 'blue mat' is not in its context"),
    ],
)
def test_bad_rows_are_named_before_there_is_a_run(
    task: str, rows: list[dict[str, Any]], says: str, run: Call, tmp_path: Path
) -> None:
    train = rows_file(tmp_path / "rows.jsonl", rows)
    held_out = rows_file(tmp_path / "held-out.jsonl", rows[:3])
    words = ("data=files", f"data.train={train}", f"data.validation={held_out}")
    refused = run("finetune", f"task={task}", *QUICK, *NOTHING, *words)
    assert refused.code == 2
    assert says in refused.error
    assert runs(tmp_path) == []


def test_an_architecture_that_is_not_supported_is_refused_from_nothing_too(run: Call, tmp_path: Path) -> None:
    backbone = "model.backbone._target_=modules.transformer.EncoderDecoder"
    refused = run("finetune", "task=qa", *QUICK, *NOTHING, backbone)
    assert refused.code == 2
    assert "is an EncoderDecoder, which this task does not support; expected a Decoder or" in refused.error
    assert runs(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ((), "has one vocabulary for both sides; expected training from scratch\nhint: use INIT=none"),
        (
            (*NOTHING, "model.backbone._target_=modules.transformer.Decoder"),
            "one embedding for input and output; expected model.backbone._target_=",
        ),
    ],
)
def test_two_vocabularies_where_there_is_room_for_one_are_refused(
    start: tuple[str, ...], says: str, run: Call, small_bundle: Path
) -> None:
    train = rows_file(small_bundle / "pairs.jsonl", pairs({}))
    words = ("task.separate_vocabularies=true", "data=files", f"data.train={train}")
    refused = run("finetune", "task=translate", *QUICK, *start, *words)
    assert refused.code == 2
    assert says in refused.error
    assert runs(small_bundle) == ["base"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "long"),
    [
        ("classify", {"text": "word " * 4_000, "label": "a"}),
        ("qa", {"context": "red mat " * 2_500, "question": "Where?", "answers": answers_of("red mat", 800)}),
        ("qa", {"context": CONTEXT, "question": "why? " * 4_000, "answers": answers_of("red mat", 19)}),
        ("translate", {"source": "word " * 4_000, "target": "word " * 4_000}),
        ("summarize", {"text": "word " * 4_000, "summary": "word " * 4_000}),
        ("chat", {"turns": ["word " * 4_000, "word " * 4_000]}),
    ],
)
def test_a_text_a_hundred_times_as_long_as_the_model_reads_is_learnt_from_and_answered(
    task: str, long: dict[str, Any], run: Call, tmp_path: Path
) -> None:
    usual: dict[str, list[dict[str, Any]]] = {
        "classify": texts({}),
        "qa": questions(),
        "translate": pairs({}),
        "summarize": [{"text": f"a {i}", "summary": "b"} for i in range(40)],
        "chat": [{"turns": [f"a {i}", "b"]} for i in range(40)],
    }
    train = rows_file(tmp_path / "rows.jsonl", [*usual[task][:12], long])
    held_out = rows_file(tmp_path / "held-out.jsonl", [long, usual[task][-1]])
    short = {"chat": ["task.max_reply_tokens=8"], "classify": [], "qa": []}.get(
        task, ["task.max_target_tokens=8"]
    )
    words = (*short, "data=files", f"data.train={train}", f"data.validation={held_out}")
    done = run("finetune", f"task={task}", *QUICK, *NOTHING, *words, "trainer.max_steps=4")
    assert done.code == 0, done.err
    done = run("predict", f"task={task}", f"input={held_out}", "trainer.batch_size=2")
    assert done.code == 0, done.err
    assert len((tmp_path / "held-out.predictions.jsonl").read_text().splitlines()) == 2


@pytest.fixture(scope="module")
def tuned_once(small_bundle_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `mine` of a classifier."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(small_bundle_once, folder, dirs_exist_ok=True)
    labelled(folder / "rows.jsonl")
    words = (*QUICK, *files("rows.jsonl"), "trainer.max_steps=1", "trainer.val_rows=4")
    with contextlib.chdir(folder):
        assert main(["finetune", "task=classify", *words, "name=mine"]) == 0
    (folder / "one.jsonl").write_text('{"text": "a text"}\n')
    return folder


@pytest.fixture
def tuned(tuned_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to work in."""
    shutil.copytree(tuned_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.slow
def test_predict_names_what_is_wrong_and_leaves_no_file(run: Call, tuned: Path) -> None:
    (tuned / "empty.jsonl").touch()
    (tuned / "other.jsonl").write_text('{"body": "x"}\n')
    (tuned / "number.jsonl").write_text('{"text": 1}\n')
    (tuned / "folder").mkdir()
    before = sorted(tuned.rglob("*"))
    cases = {
        "": "no input; expected a file of rows",
        "input=nowhere.jsonl": "input=nowhere.jsonl: there is no such file",
        "input=empty.jsonl": "empty.jsonl is empty",
        "input=other.jsonl": "there is no column 'sentence'; expected one of the columns present: body",
        "input=number.jsonl": "column 'text' contains a number; expected text in every row",
        "input=one.jsonl output=folder": "cannot write folder (Is a directory)",
        "input=one.jsonl output=nowhere/x.jsonl": "cannot write nowhere/x.jsonl (No such file or directory)",
        "input=one.jsonl output=one.jsonl": "output=one.jsonl is the input file",
        "input=one.jsonl task.label_names=[a]": "a head with n_classes=1; expected n_classes=2, as runs/mine",
        "input=one.jsonl task.pooling=first": "a head with pooling=first; expected pooling=last",
        "input=one.jsonl bundle=base": "was trained for CausalLM; expected a bundle for TextClassification",
    }
    for words, says in cases.items():
        refused = run("predict", "task=classify", *words.split())
        assert refused.code == 2, words
        assert says in refused.error
        assert "output" not in words or "Rows" not in refused.err, words  # before they are answered
    assert sorted(tuned.rglob("*")) == before


@pytest.mark.slow
def test_a_bundle_reads_the_columns_that_it_was_trained_on_unless_it_is_told_otherwise(
    run: Call, small_bundle: Path
) -> None:
    rows = [{"text": f"text {i}", "hypothesis": MOODS[i], "label": MOODS[i]} for i in range(40)]
    rows_file(small_bundle / "pairs.jsonl", rows)
    columns = "data.columns.text_pair=hypothesis"
    words = ("data=files", "data.train=pairs.jsonl", columns, "trainer.max_steps=1")
    done = run("finetune", "task=classify", *QUICK, *words, "trainer.val_rows=4", "name=pairs")
    assert done.code == 0, done.err

    done = run("predict", "input=pairs.jsonl")
    assert done.code == 0, done.err
    lines = (small_bundle / "pairs.predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["text_pair"] == rows[1]["hypothesis"]
    rows_file(small_bundle / "single.jsonl", [{"text": "a text", "label": None}])
    refused = run("predict", "input=single.jsonl")
    assert (refused.code, (small_bundle / "single.predictions.jsonl").exists()) == (2, False)
    assert "there is no column 'hypothesis'; expected" in refused.error
    assert "columns.text_pair=" in refused.error
    evaluate = ("evaluate", "task=classify", "tracking=off", "data=files", "trainer.batch_size=4")
    measured = run(*evaluate, "data.train=pairs.jsonl")
    assert measured.code == 0, measured.err
    assert measured.result["metrics"] == pytest.approx(
        run(*evaluate, "data.train=pairs.jsonl", columns).result["metrics"]
    )
    single = [{"text": f"text {i}", "label": MOODS[i]} for i in range(40)]
    refused = run(*evaluate, f"data.train={rows_file(small_bundle / 'unpaired.jsonl', single)}")
    assert refused.code == 2
    assert "there is no column 'hypothesis'" in refused.error


@pytest.mark.slow
def test_each_file_of_a_folder_is_answered_in_a_file_of_its_own(run: Call, tuned: Path) -> None:
    names = {
        "one.en.jsonl": "one.en.predictions.jsonl",
        "one.de.jsonl": "one.de.predictions.jsonl",
        "one.csv": "one.csv.predictions.jsonl",
    }
    for name, answered in names.items():
        (tuned / name).write_text("text,id\na text,007\n" if name.endswith("csv") else '{"text": "a text"}\n')
        done = run("predict", f"input={name}", "trainer.batch_size=1")
        assert done.code == 0, done.err
        assert done.result["output"] == [answered]
    assert json.loads((tuned / "one.csv.predictions.jsonl").read_text())["id"] == "007"
    refused = run("predict", "input='one.*.jsonl'")
    assert refused.code == 2
    assert "input=one.*.jsonl is a pattern" in refused.error
    assert run("predict", "input='one.*.jsonl'", "output=all.jsonl").code == 0
    assert len((tuned / "all.jsonl").read_text().splitlines()) >= 2


def test_truths_are_not_looked_at_when_rows_are_answered_and_come_back_as_they_are(
    run: Call, tuned: Path
) -> None:
    rows = [
        {"text": "a", "label": None, "id": 1},
        {"text": "b", "id": "01", "label": ["x", 3]},
        {"text": "c", "label": "\ud800"},
        {"text": "d", "label": math.nan},
    ]
    rows_file(tuned / "rows.jsonl", rows)
    done = run("predict", "input=rows.jsonl")
    assert done.code == 0, done.err
    answered = [json.loads(line) for line in (tuned / "rows.predictions.jsonl").read_text().splitlines()]
    given = [{key: row[key] for key in row if key != "prediction"} for row in answered]
    assert given == [*rows[:3], {"text": "d", "label": "NaN"}]


def test_predict_without_a_task_takes_the_newest_fine_tuned_bundle(run: Call, tuned: Path) -> None:
    done = run("predict", "input=one.jsonl")
    assert done.code == 0, done.err
    (line,) = (tuned / "one.predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["prediction"]["text"] in MOODS
    refused = run("predict", "task=qa", "input=one.jsonl")
    assert refused.code == 2
    assert "no finished finetune-qa bundle under runs" in refused.error

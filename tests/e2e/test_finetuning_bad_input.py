"""What a user can give wrong to fine-tune and to predict: one line, and no run or file is left."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

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
        ("classify", texts({"text": 7}), "line 6: column 'text' holds a number; expected text in every row"),
        ("classify", texts({"label": 7}), "line 6: column 'label' holds a number; expected text, as before"),
        ("classify", texts({"label": None}), "line 6: column 'label' holds null; expected"),
        ("classify", [{"text": "a"}] * 9, "there is no column 'label'; expected one of the columns present"),
        ("qa", questions("blue mat"), "the answer 'blue mat' is not in its context"),
        ("qa", questions(shift=1), "is said to begin at character 20, where 'ed mat,' stands; expected"),
        ("qa", questions(shift=-1), "is said to begin at character 18, where ' red ma' stands; expected"),
        ("translate", pairs({"source": ""}), "row 6 of train: source is empty; expected text"),
        ("translate", pairs({"target": " "}), "target is empty; expected text"),
        ("summarize", [{"text": f"a {i}", "summary": "" if i == 5 else "b"} for i in range(40)], "is empty"),
        ("chat", [{"turns": ["hi"] if i == 5 else [f"a {i}", "b"]} for i in range(40)], "turns has no reply"),
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


def test_a_label_that_training_lacks_is_named(run: Call, tmp_path: Path) -> None:
    train, held_out = (
        labelled(tmp_path / "train.jsonl"),
        labelled(tmp_path / "held-out.jsonl", ["good", "odd"]),
    )
    words = files(train, f"data.validation={held_out}")
    refused = run("finetune", "task=classify", *QUICK, *NOTHING, *words)
    assert refused.code == 2
    assert "validation, row 2: 'odd' is no label of the training rows" in refused.error
    assert runs(tmp_path) == []


def test_one_class_only_is_refused(run: Call, tmp_path: Path) -> None:
    train = labelled(tmp_path / "train.jsonl", ["good"] * 20)
    refused = run("finetune", "task=classify", *QUICK, *NOTHING, *files(train))
    assert refused.code == 2
    assert (
        "all 19 training rows have one label: 'good'; expected rows of at least two classes" in refused.error
    )
    assert runs(tmp_path) == []


def test_an_arrangement_that_cannot_serve_is_refused_from_nothing_too(run: Call, tmp_path: Path) -> None:
    backbone = "model.backbone._target_=modules.transformer.EncoderDecoder"
    refused = run("finetune", "task=qa", *QUICK, *NOTHING, backbone)
    assert refused.code == 2
    assert "is an EncoderDecoder, which this task does not support; expected a Decoder or" in refused.error
    assert runs(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ((), "has one vocabulary for both sides; expected a start from nothing; use INIT=none"),
        (
            (*NOTHING, "model.backbone._target_=modules.transformer.Decoder"),
            "one embedding for all it reads and writes; expected model.backbone._target_=",
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


@pytest.fixture
def tuned(run: Call, small_bundle: Path) -> Path:
    """A folder with the run `mine` of a classifier."""
    words = (*QUICK, *files("rows.jsonl"), "trainer.max_steps=1", "trainer.val_rows=4")
    done = run("finetune", "task=classify", *words, "name=mine")
    assert done.code == 0, done.err
    (small_bundle / "one.jsonl").write_text('{"text": "a text"}\n')
    return small_bundle


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
        "input=number.jsonl": "column 'text' holds a number; expected text in every row",
        "input=one.jsonl output=folder": "cannot write folder (Is a directory)",
        "input=one.jsonl output=nowhere/x.jsonl": "cannot write nowhere/x.jsonl (No such file or directory)",
        "input=one.jsonl output=one.jsonl": "output=one.jsonl is the input",
        "input=one.jsonl task.label_names=[a]": "a head with n_classes=1; expected n_classes=2, as runs/mine",
        "input=one.jsonl task.pooling=first": "a head with pooling=first; expected pooling=last",
        "input=one.jsonl bundle=base": "was trained for CausalLM; expected a bundle for TextClassification",
    }
    for words, says in cases.items():
        refused = run("predict", "task=classify", *words.split())
        assert refused.code == 2, words
        assert says in refused.error
    assert sorted(tuned.rglob("*")) == before


def test_an_output_that_cannot_be_written_is_known_before_the_rows_are_answered(
    run: Call, tuned: Path
) -> None:
    refused = run("predict", "task=classify", "input=one.jsonl", "output=nowhere/x.jsonl")
    assert refused.code == 2
    assert "Rows" not in refused.err


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


def test_a_bundle_with_another_tokenizer_is_refused_with_both_hashes(run: Call, tuned: Path) -> None:
    folder = tuned / "runs/base/bundles/best"
    provenance = json.loads((folder / "provenance.json").read_text())
    own, other = provenance["tokenizer"], hashlib.sha256(b"another").hexdigest()
    (folder / "provenance.json").write_text(json.dumps({**provenance, "tokenizer": other}))
    done = json.loads((folder / "DONE").read_text())
    done["provenance.json"] = hashlib.sha256((folder / "provenance.json").read_bytes()).hexdigest()
    (folder / "DONE").write_text(json.dumps(done))
    refused = run("finetune", "task=classify", *QUICK, *files("rows.jsonl"))
    assert refused.code == 2
    assert own in refused.error
    assert other in refused.error
    assert runs(tuned) == ["base", "mine"]


def test_an_unfinished_bundle_is_not_fine_tuned(run: Call, small_bundle: Path) -> None:
    (small_bundle / "runs/base/bundles/best/DONE").unlink()
    says = {"init_from=base": "is not a finished bundle", "init_from=null": "no finished pretraining bundle"}
    for word, problem in says.items():
        refused = run("finetune", "task=classify", *QUICK, *files("rows.jsonl"), word)
        assert refused.code == 2
        assert problem in refused.error
    assert runs(small_bundle) == ["base"]


def test_a_head_on_a_backbone_that_cannot_serve_it_is_refused_with_one_that_can(
    run: Call, small_bundle: Path
) -> None:
    model = small_bundle / "runs/base/bundles/best/model.json"
    # An encoder has the weights of a decoder: what differs is the mask.
    encoder = model.read_text().replace("modules.transformer.Decoder", "modules.transformer.Encoder")
    reader = small_bundle / "runs/reader"
    (small_bundle / "runs/base").rename(reader)
    (reader / "bundles/best/model.json").write_text(encoder)
    refused = run("finetune", "task=translate", *QUICK, "init_from=reader")
    assert refused.code == 2
    assert "holds an Encoder, which this task does not support; expected an EncoderDecoder or Decoder" in (
        refused.error
    )
    assert runs(small_bundle) == ["reader"]


def test_a_model_beside_the_bundle_is_refused(run: Call, small_bundle: Path) -> None:
    refused = run("finetune", "task=classify", *files("rows.jsonl"), "size=small", "tracking=off")
    assert refused.code == 2
    assert "size is given, and init_from is not none" in refused.error
    assert runs(small_bundle) == ["base"]

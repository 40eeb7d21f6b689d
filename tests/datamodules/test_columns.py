"""Labelled rows: which columns are read, from where, what they may hold, and what is held out."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Columns, Corpus, Files, Hub, Mirror
from datamodules.corpus.rows import numbers_of
from datamodules.errors import DataError

LABELLED = Columns(("text", "label"), ("text_pair",))
QUESTIONS = Columns(("context", "question", "answers"))
PAIRS = Columns(("source", "target"))
CHAT = Columns(("turns",))
REPAIR = "correct or remove the row"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(name: str, *rows: Any) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return name


def labelled(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": "even" if i % 2 == 0 else "odd"} for i in range(start, start + n)]


def rows_of(wanted: Columns, *rows: Any, **options: Any) -> list[Any]:
    held_out = write("held_out.jsonl", *({**row, next(iter(row)): _other(row)} for row in rows))
    corpus = Files(write("rows.jsonl", *rows), held_out, **options).load(wanted)
    return corpus.train.to_list()  # type: ignore[attr-defined]


def _other(row: dict[str, Any]) -> Any:
    first = next(iter(row.values()))
    return first + "!" if isinstance(first, str) else first + first[-1:]


def error_of(wanted: Columns, *rows: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        Files(write("rows.jsonl", *rows), **options).load(wanted)
    assert str(caught.value).count("\n") == 1
    return str(caught.value)


@pytest.mark.parametrize("label", ["good", 3, True, ["a", "b"]])
def test_a_label_may_be_text_a_number_or_several_texts(label: Any) -> None:
    rows = [{"text": "a", "label": label, "more": 1}, {"text": "b", "label": label, "more": None}]
    assert rows_of(LABELLED, *rows) == [{"text": row["text"], "label": label} for row in rows]


def test_objects_and_lists_pass_as_they_are() -> None:
    none: dict[str, Any] = {"text": [], "answer_start": []}
    rows = [
        {"context": "a b", "question": "?", "answers": none},
        {"context": "a c", "question": "?", "answers": {"text": ["a"], "answer_start": [0]}},
    ]
    assert rows_of(QUESTIONS, *rows) == rows
    turns = [
        {"turns": [{"speaker": "user", "text": "a"}, {"speaker": "system", "text": "b"}]},
        {"turns": []},
    ]
    assert rows_of(CHAT, *turns) == turns
    assert rows_of(CHAT, {"turns": ["a", "b"]}, {"turns": ["c"]}) == [{"turns": ["a", "b"]}, {"turns": ["c"]}]


def test_empty_answers_in_one_block_and_full_ones_in_the_next_are_one_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datamodules.corpus.source_file._BLOCK_BYTES", 64)
    answers: list[Any] = [{"text": [], "answer_start": []}, {"text": ["a"], "answer_start": [0]}]
    rows = [{"context": f"a {i}", "question": "?", "answers": answers[i // 5]} for i in range(10)]
    assert rows_of(QUESTIONS, *rows) == rows


def test_a_dotted_name_is_a_path_into_objects() -> None:
    pairs = [{"source": f"s {i}", "target": f"t {i}"} for i in range(3)]
    nested = [{"translation": {"en": pair["source"], "de": pair["target"]}} for pair in pairs]
    columns = {"source": "translation.en", "target": "translation.de"}
    held_out = write("held_out.jsonl", {"translation": {"en": "x", "de": "y"}})
    pq.write_table(pa.Table.from_pylist(nested), "rows.parquet")
    for name in (write("rows.jsonl", *nested), "rows.parquet"):
        corpus = Files(name, held_out, columns=columns).load(PAIRS)
        assert list(corpus.train) == pairs
    assert error_of(PAIRS, {"translation": {"en": "a"}}, columns=columns) == (
        "rows.jsonl, line 1: there is no column 'translation.de'; "
        "expected one of the columns present: translation\nhint: "
        "give the file such a column, or name it with data.columns.target=COLUMN"
    )


def test_a_column_whose_own_name_has_a_dot_is_read_by_it() -> None:
    assert rows_of(PAIRS, {"a.b": "x", "target": "y"}, columns={"source": "a.b"}) == [
        {"source": "x", "target": "y"}
    ]


def test_optional_columns_are_read_where_the_file_has_them() -> None:
    row = {"text": "a", "label": 1, "text_pair": "b"}
    assert rows_of(LABELLED, row) == [row]
    assert rows_of(LABELLED, {"text": "a", "label": 1}) == [{"text": "a", "label": 1}]
    assert error_of(LABELLED, row, {"text": "b", "label": 1}) == (
        "rows.jsonl, line 2: the key 'text_pair' is missing; expected the same keys in every row"
        f"\nhint: {REPAIR}"
    )
    assert error_of(LABELLED, {"text": "b", "label": 1}, row).startswith(
        "rows.jsonl, line 2: the key 'text_pair' is not in the first row; expected the same keys"
    )
    files = [write("one.jsonl", row), write("two.jsonl", {"text": "b", "label": 2})]
    with pytest.raises(DataError, match="column 'text_pair' is only in some of the files"):
        Files(files).load(LABELLED)


WRONG: dict[str, tuple[Columns, Any, str, str]] = {
    "mixed labels": (LABELLED, {"text": "b", "label": "x"}, "label", "text; expected a number, as before,"),
    "no label": (
        *(LABELLED, {"text": "b", "label": None}, "label"),
        "null; expected text or a number or true or false or a list of texts",
    ),
    "half a label": (
        *(LABELLED, {"text": "b", "label": 1.5}, "label"),
        "a number with a fraction; expected text or a number or true or false or a list of texts",
    ),
    "a number as text": (LABELLED, {"text": 5, "label": 1}, "text", "a number; expected text"),
    "no text": (LABELLED, {"text": None, "label": 1}, "text", "null; expected text"),
    "answers without places": (
        *(QUESTIONS, {"context": "b", "question": "?", "answers": ["a"]}, "answers"),
        "a list of texts; expected an object",
    ),
    "one turn": (CHAT, {"turns": "hello"}, "turns", "text; expected a list of texts or a list of objects"),
    "mixed turns": (CHAT, {"turns": ["a", {"text": "b"}]}, "turns", "a list; expected a list of texts or a"),
}
FIRST = {
    LABELLED: {"text": "a", "label": 0},
    QUESTIONS: {"context": "a", "question": "?", "answers": {"text": [], "answer_start": []}},
    CHAT: {"turns": ["a"]},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_row_that_holds_what_its_column_should_not_is_named(what: str) -> None:
    columns, row, column, found = WRONG[what]
    message = error_of(columns, FIRST[columns], row)
    assert message.startswith(f"rows.jsonl, line 2: column '{column}' contains {found}")
    assert message.endswith(f"in every row\nhint: {REPAIR}")


def test_a_missing_column_is_answered_with_those_present() -> None:
    assert error_of(LABELLED, {"text": "a", "mood": "b"}) == (
        "rows.jsonl, line 1: there is no column 'label'; expected one of the columns present: text, mood"
        "\nhint: "
        "give the file such a column, or name it with data.columns.label=COLUMN"
    )
    Path("rows.csv").write_text("sentence,mood\na,b\n")
    with pytest.raises(DataError, match=r"^rows.csv: there is no column 'label'; .*: sentence, mood\nhint: "):
        Files("rows.csv", columns={"text": "sentence"}).load(LABELLED)
    Path("rows.txt").write_text("words")
    with pytest.raises(DataError, match=r"(?s)^rows.txt: there is no column 'label'; .*: text\nhint: give"):
        Files("rows.txt").load(LABELLED)


def test_classes_are_one_column_whatever_types_the_files_give_them() -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, 2.0]}), "a.parquet")
    b, c = write("b.jsonl", {"text": "c", "label": 1}), write("c.jsonl", {"text": "d", "label": "other"})
    v = write("v.jsonl", {"text": "e", "label": 2})
    corpus = Files(["a.parquet", b, c], v).load(LABELLED)
    assert [row["label"] for row in corpus.train] == ["1", "2", "1", "other"]
    assert [row["label"] for row in corpus.validation] == [2]


def test_splits_of_which_one_has_lists_of_labels_are_refused() -> None:
    train, validation = write("a.jsonl", *labelled(3)), write("b.jsonl", {"text": "x", "label": ["odd"]})
    with pytest.raises(DataError) as caught:
        Files(train, validation).load(LABELLED)
    assert str(caught.value) == (
        "column 'label' contains text in train and a list of texts in validation; "
        "expected the same type in all splits\nhint: correct one of the files"
    )


def test_empty_texts_are_left_to_the_task() -> None:
    assert rows_of(LABELLED, {"text": "", "label": 1}, {"text": "a", "label": 2})[0]["text"] == ""


def test_a_text_of_100_000_characters_is_a_row_like_others() -> None:
    text = "狐狸和 fox 😀 " * 10_000
    assert rows_of(LABELLED, {"text": text, "label": 1}) == [{"text": text, "label": 1}]


def test_dialogues_of_both_forms_may_be_in_one_file_in_several_and_in_several_splits() -> None:
    plain = [{"turns": ["a", f"b {i}"]} for i in range(3)]
    spoken = [
        {
            "turns": [{"role": "user", "text": "c", "id": 1}, {"role": "bot", "text": "d", "id": "x"}],
            "more": 1,
        },
        {"turns": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]},
    ]
    held_out = write("held-out.jsonl", *plain[:1])
    both = Files(write("both.jsonl", *plain[1:], *spoken), held_out).load(CHAT)
    two = Files([write("1.jsonl", *plain[1:]), write("2.jsonl", *spoken)], held_out).load(CHAT)
    for corpus in (both, two):
        read = [
            [(turn["role"], turn.get("text") or turn.get("content")) for turn in row["turns"]]
            for row in corpus.train
        ]
        assert read[1:] == [
            [("user", "a"), ("assistant", "b 2")],
            [("user", "c"), ("bot", "d")],
            [("user", "e"), ("assistant", "f")],
        ]
        assert list(corpus.validation) == plain[:1]


def test_rows_keep_the_numbers_of_their_file_when_a_part_is_held_out() -> None:
    rows = labelled(40)
    corpus = Files(write("rows.jsonl", *rows), validation_fraction=0.2).load(LABELLED)
    for split in (corpus.train, corpus.validation):
        assert [rows[number - 1]["text"] for number in numbers_of(split)] == [row["text"] for row in split]
    assert sorted([*numbers_of(corpus.train), *numbers_of(corpus.validation)]) == list(range(1, 41))


def test_a_value_that_does_not_fit_those_before_it_is_named_by_its_line() -> None:
    rows = [{"turns": [{"role": "user", "text": text}]} for text in ("a", "b", 3, "d")]
    message = error_of(CHAT, *rows)
    assert message.startswith("rows.jsonl, line 3: a column changes its type: 'turns'")


def test_the_test_rows_are_a_third_split_with_its_source_and_part_in_the_fingerprint() -> None:
    train, validation = write("a.jsonl", *labelled(9)), write("b.jsonl", *labelled(3, 20))
    test = write("c.jsonl", *labelled(4, 30))
    corpus = Files(train, validation, test=test).load(LABELLED)
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (9, 3, 4)
    assert [source["split"] for source in corpus.sources] == ["train", "validation", "test"]
    without = Files(train, validation).load(LABELLED)
    assert without.test is None
    assert without.n_test_rows is None
    assert without.fingerprint != corpus.fingerprint


def test_rows_are_held_out_of_training_and_not_of_the_test_rows() -> None:
    train, test = write("a.jsonl", *labelled(100)), write("c.jsonl", *labelled(10, 200))
    corpus = Files(train, test=test, validation_fraction=0.1).load(LABELLED)
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (90, 10, 10)
    kept, held_out = ({row["text"] for row in rows} for rows in (corpus.train, corpus.validation))
    assert not kept & held_out
    assert kept | held_out == {row["text"] for row in labelled(100)}


def test_test_rows_that_are_trained_on_or_validated_on_are_refused() -> None:
    train, validation = write("a.jsonl", *labelled(5)), write("b.jsonl", *labelled(3, 20))
    for name, said in ((train, "training"), (validation, "validation")):
        copy = write(f"copy-{name}.gz", *(json.loads(line) for line in Path(name).read_text().splitlines()))
        for given in (name, copy):
            with pytest.raises(DataError, match=f"{said} (rows|file)") as caught:
                Files(train, validation, test=given).load(LABELLED)
            assert str(caught.value).endswith("give another file, or leave out data.test")


def test_all_questions_on_one_context_are_held_out_together() -> None:
    rows = [
        {"context": f"c {i % 20}", "question": f"q {i}", "answers": {"text": ["c"], "answer_start": [0]}}
        for i in range(200)
    ]
    corpus = Files(write("a.jsonl", *rows), validation_fraction=0.1).load(QUESTIONS)
    contexts = [{row["context"] for row in part} for part in (corpus.train, corpus.validation)]
    assert not contexts[0] & contexts[1]
    assert corpus.n_validation_rows == 20


def test_dialogues_are_held_out_too() -> None:
    rows = [{"turns": [f"a {i}", "b"]} for i in range(40)]
    corpus = Files(write("a.jsonl", *rows)).load(CHAT)
    assert (corpus.n_train_rows, corpus.n_validation_rows) == (38, 2)


def test_a_mirror_gives_test_rows_and_takes_lists_of_files() -> None:
    write("m/a.jsonl", *labelled(9))
    write("m/b.jsonl", *labelled(9, 10))
    write("m/c.jsonl", *labelled(9, 30))
    corpus = Mirror("m", ["a.jsonl", "b.jsonl"], test="c.jsonl", validation_fraction=0.5).load(LABELLED)
    assert (corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows) == (9, 9, 9)


CLASSES = datasets.Features(
    {
        "sentence": datasets.Value("string"),
        "mood": datasets.ClassLabel(names=["bad", "good"]),
        "id": datasets.Value("int64"),
    }
)


def write_hub(folder: str, secret: bool = False) -> str:
    for split, n in (("train", 40), ("validation", 4), ("test", 6)):
        path = Path(folder) / f"{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = [
            {"sentence": f"{split} {i}", "mood": -1 if secret and split == "test" else i * 2 // n, "id": i}
            for i in range(n)
        ]
        datasets.Dataset.from_list(rows, features=CLASSES).to_parquet(path)
    return folder


MAPPED = {"text": "sentence", "label": "mood"}


def load_hub(path: str, **options: Any) -> Corpus:
    return Hub(path, columns=MAPPED, **options).load(LABELLED)


def test_classes_of_the_hub_are_read_by_their_names_in_three_splits() -> None:
    corpus = load_hub(write_hub("moods"), test_split="test")
    assert [row["label"] for row in corpus.train] == ["bad"] * 20 + ["good"] * 20
    assert set(corpus.train[0]) == {"text", "label"}  # type: ignore[index]
    assert (corpus.n_validation_rows, corpus.n_test_rows) == (4, 6)
    assert [source["split"] for source in corpus.sources] == ["train", "validation", "test"]
    assert corpus.sources[2]["uri"] == "hf://datasets/moods@" + str(corpus.sources[2]["uri"]).split("@")[1]
    assert load_hub("moods", test_split="test").fingerprint == corpus.fingerprint
    assert load_hub("moods").fingerprint != corpus.fingerprint


def test_the_hubs_own_parquet_files_in_a_mirror_give_the_names_too() -> None:
    Path("m").mkdir()
    write_hub("m/moods")
    corpus = load_hub(
        "nobody/moods", mirror="m", mirror_train="moods/train.parquet", mirror_test="moods/test.parquet"
    )
    assert {row["label"] for row in corpus.train} == {"bad", "good"}
    assert corpus.n_test_rows == 6


def test_test_rows_whose_classes_are_secret_are_refused() -> None:
    with pytest.raises(DataError, match=r"split test, column 'mood' has a row of class -1; expected a class"):
        load_hub(write_hub("moods", secret=True), test_split="test")


def test_rows_in_order_of_their_labels_are_held_out_by_hash_where_a_fraction_is_given() -> None:
    corpus = load_hub(write_hub("moods"), validation_split=None, validation_fraction=0.25)
    assert (corpus.n_train_rows, corpus.n_validation_rows) == (30, 10)
    assert {row["label"] for row in corpus.validation} == {"bad", "good"}


def test_a_mirror_may_have_other_column_names_than_the_hub() -> None:
    write("m/moods/train.jsonl", *labelled(20))
    corpus = load_hub("nobody/moods", mirror="m", mirror_train="moods/train.jsonl", mirror_columns={})
    assert {row["label"] for row in corpus.train} == {"even", "odd"}


@pytest.mark.parametrize("streaming", [False, True])
def test_paths_into_objects_of_the_hub_are_read(streaming: bool) -> None:
    for split in ("train", "validation"):
        write(f"books/{split}.jsonl", {"id": 1, "translation": {"en": f"{split} a", "de": "b"}})
    hub = Hub("books", columns={"source": "translation.en", "target": "translation.de"}, streaming=streaming)
    corpus = hub.load(PAIRS)
    assert list(corpus.train) == [{"source": "train a", "target": "b"}]
    assert list(corpus.validation) == [{"source": "validation a", "target": "b"}]
    assert corpus.fingerprint == hub.load(PAIRS).fingerprint

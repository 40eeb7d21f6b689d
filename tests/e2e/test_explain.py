"""`make explain`: pictures, JSON and a page; and a mistake leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Outcome

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"
CLASSIFIER, WRITER = FIXTURES / "old-classify", FIXTURES / "old-pretrain"
ROWS = [{"text": "Emil <b>had</b> it.", "label": "Emil"}, {"text": "Frieda had it."}]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.mark.slow
def test_each_row_has_a_picture_json_and_a_place_on_the_page(
    run: Callable[..., Outcome], rows: Path, tmp_path: Path
) -> None:
    done = run("explain", f"bundle={CLASSIFIER}", f"input={rows}", "output=why")
    assert done.code == 0
    found = json.loads((tmp_path / "why/row-0001.json").read_text())
    (decision,) = found["decisions"]
    text = ROWS[0]["text"]
    assert [text[word["start"] : word["end"]] for word in decision["words"]] == [
        word["text"] for word in decision["words"]
    ]
    total = sum(word["attribution"] for word in decision["words"])
    assert total == pytest.approx(decision["output"] - decision["baseline_output"], rel=2e-3, abs=1e-4)
    assert found["target"] == "Emil"
    assert done.result["metrics"]["completeness_gap"] >= decision["gap"]
    names = {file.name for file in (tmp_path / "why").iterdir()}
    assert names == {
        "index.html",
        *(f"row-000{n}{end}" for n in (1, 2) for end in (".json", ".png", "-attention.png")),
    }
    page = (tmp_path / "why/index.html").read_text()
    assert "<b>" not in page
    assert "Row 2" in page
    assert (tmp_path / "why/row-0001.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_pretrained_model_goes_on_from_the_rows_and_each_token_has_its_probability(
    run: Callable[..., Outcome], rows: Path, tmp_path: Path
) -> None:
    done = run("explain", f"bundle={WRITER}", f"input={rows}", "sampling.max_new_tokens=5")
    assert done.code == 0
    found = json.loads((tmp_path / "rows.explained/row-0002.json").read_text())
    assert len(found["written"]) <= 5
    assert all(0 < token["probability"] <= 1 for token in found["written"])


def no_done(folder: Path) -> str:
    bundle = folder / "unfinished"
    shutil.copytree(CLASSIFIER / "bundles" / "best", bundle)
    (bundle / "DONE").unlink()
    return f"bundle={bundle}"


def occupied(folder: Path) -> str:
    (folder / "there").mkdir()
    return "output=there"


def not_a_folder(folder: Path) -> str:
    (folder / "a_file").write_text("")
    return "output=a_file/why"


def given(folder: Path, text: str) -> str:
    (folder / "bad.jsonl").write_text(text)
    return "input=bad.jsonl"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (lambda folder: "input=null", "no input; expected a file of rows"),
        (lambda folder: given(folder, ""), "bad.jsonl"),
        (lambda folder: given(folder, '{"txt": "x"}\n'), "there is no column 'text'"),
        (lambda folder: given(folder, '{"text": 3}\n'), "line 1: column 'text' contains a number"),
        (lambda folder: "input=missing.jsonl", "missing.jsonl"),
        (no_done, "unfinished is not a finished bundle"),
        (occupied, "there exists; expected a folder that does not exist yet\nhint: choose another OUTPUT="),
        (not_a_folder, "cannot write a_file/why"),
    ],
)
def test_a_mistake_is_refused_in_one_line_and_leaves_nothing(
    run: Callable[..., Outcome], rows: Path, tmp_path: Path, word: Callable[[Path], str], says: str
) -> None:
    words = [f"bundle={CLASSIFIER}", f"input={rows}", "output=why"]
    change = word(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    key = change.partition("=")[0]
    done = run("explain", *(one for one in words if not one.startswith(f"{key}=")), change)
    assert done.code == 2
    assert says in done.error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_row_that_the_task_cannot_read_is_named(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text('{"text": "x"}\n' + json.dumps({"text": "word " * 500}) + "\n")
    done = run("explain", f"bundle={WRITER}", "input=long.jsonl", "sampling.max_new_tokens=2")
    assert done.code == 2
    assert "row 2: the text has" in done.error
    assert not (tmp_path / "long.explained").exists()

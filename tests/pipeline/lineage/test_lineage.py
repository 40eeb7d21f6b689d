"""From a bundle back to the bytes: what is there is checked, what is gone is told from what was recorded."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.__main__ import main
from pipeline.lineage import Node, State, draw, trace
from pipeline.registry.versions import Version
from tests.pipeline.made_bundles import CODE, finish, make_bundle, make_evaluation, make_run, write


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "story.txt"
    file.write_text("Once there was a lantern.\n")
    return file


@pytest.fixture
def chain(tmp_path: Path, text: Path) -> Path:
    """A fine-tuned bundle, from one of continued pretraining, from one that read the text."""
    first = make_bundle(tmp_path / "runs/first", stage="pretrain", sources=[text])
    second = make_bundle(tmp_path / "runs/second", stage="pretrain", parent=first, weights=b"more")
    return make_bundle(tmp_path / "runs/third", parent=second, weights=b"most")


def version(name: str, number: str, *aliases: str) -> Version:
    return Version(name=name, number=number, aliases=aliases, folder=Path(), digest="")


def traced(folder: Path, *versions: Version) -> Node:
    runs = folder.parent.parent.parent
    return trace(folder, runs_dir=runs, cache_dir=runs.parent / ".cache", registrations=versions)


def nodes(node: Node, kind: str) -> list[Node]:
    return [found for found in node.walk() if found.kind == kind]


def test_a_model_is_followed_over_every_run_to_the_file_it_was_made_from(chain: Path, text: Path) -> None:
    node = traced(chain, version("prelude-classify", "2", "champion"))
    assert node.title == "prelude-classify version 2"
    runs = nodes(node, "run")
    assert [run.title.split()[0] for run in runs] == ["third", "second", "first"]
    assert {run.state for run in runs} == {State.OK}
    (source,) = nodes(runs[-1], "source")
    assert (source.title, source.state) == (str(text), State.OK)
    assert {seed.title for seed in nodes(node, "seed")} == {"7"}
    assert {commit.title for commit in nodes(node, "commit")} == {CODE["git_commit"][:12]}


def test_a_source_file_that_was_changed_or_deleted_is_said(chain: Path, text: Path) -> None:
    text.write_text("Once there was another lantern.\n")
    assert [source.state for source in nodes(traced(chain), "source")] == [State.CHANGED]
    text.unlink()
    assert [source.state for source in nodes(traced(chain), "source")] == [State.GONE]


def test_the_tree_goes_on_below_a_deleted_parent_with_what_was_recorded(chain: Path) -> None:
    shutil.rmtree(chain.parents[2] / "second")
    runs = nodes(traced(chain), "run")
    assert [(run.title.split()[0], run.state) for run in runs] == [
        ("third", State.OK),
        ("second", State.GONE),
        ("first", State.OK),
    ]
    assert nodes(runs[1], "source")


def test_a_parent_that_is_another_bundle_now_is_said_and_not_followed(chain: Path) -> None:
    second = chain.parents[2] / "second"
    shutil.rmtree(second)
    make_bundle(second, stage="pretrain", weights=b"other")
    runs = nodes(traced(chain), "run")
    assert [run.state for run in runs] == [State.OK, State.CHANGED, State.OK]
    assert runs[2].title.startswith("first")


def test_a_file_of_a_bundle_that_was_changed_is_said(chain: Path) -> None:
    (chain.parents[2] / "first/bundles/best/model.safetensors").write_bytes(b"flipped")
    first = nodes(traced(chain), "run")[-1]
    assert first.state is State.CHANGED
    assert "model.safetensors" in first.note


@pytest.mark.parametrize("name", ["measured", "an other"])
def test_evaluations_stand_beside_the_bundle_that_they_measured_and_no_other(chain: Path, name: str) -> None:
    run = make_run(chain.parents[2] / name, stage="evaluate", data="imdb")
    (run / "config.yaml").write_text("bundle: third\n")
    make_evaluation(run, [1.0, 0.0], corpus="imdb")
    third, second, _ = nodes(traced(chain), "run")
    found = [node for node in third.made_from if node.kind == "evaluation"]
    assert [(node.title, node.facts["on"], node.facts["accuracy"][:6]) for node in found] == [
        (name, "imdb", "0.5000")
    ]
    assert not [node for node in second.made_from if node.kind == "evaluation"]


@pytest.mark.parametrize(
    ("recorded", "state", "note"),
    [
        ({"git_dirty": "true"}, State.CHANGED, "with changes that were not committed"),
        ({"git_untracked_code": "2"}, State.CHANGED, "with 2 files of code not tracked by git"),
        ({"git_untracked_code": "0"}, State.OK, "no uncommitted changes"),
        ({"git_dirty": "unknown"}, State.UNCHECKED, "git did not report whether everything was committed"),
    ],
)
def test_code_that_the_commit_does_not_hold_is_told_apart(
    tmp_path: Path, recorded: dict[str, str], state: State, note: str
) -> None:
    folder = make_bundle(tmp_path / "runs/a")
    record = json.loads((folder / "provenance.json").read_text())
    write(folder / "provenance.json", {**record, "code": {**CODE, **recorded}})
    finish(folder)
    (commit,) = nodes(traced(folder), "commit")
    assert (commit.state, commit.note) == (state, note)


def test_the_picture_is_svg_that_fetches_nothing_and_holds_every_run_and_file(
    chain: Path, text: Path
) -> None:
    picture = draw(traced(chain, version("prelude <&> 灯", "1")))
    root = ElementTree.fromstring(picture)
    texts = "\n".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title"))
    for name in ("first", "second", "third", str(text), "prelude <&> 灯"):
        assert name in texts
    assert picture.count("http") == 1  # the name of the format


def test_boxes_of_the_picture_do_not_overlap_and_lie_inside(chain: Path) -> None:
    root = ElementTree.fromstring(draw(traced(chain)))
    width, height = (float(root.attrib[key]) for key in ("width", "height"))
    boxes = [
        tuple(float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        for box in root.iter("{http://www.w3.org/2000/svg}rect")
        if "rx" in box.attrib
    ]
    assert len(boxes) == len(set(boxes)) > 4
    for x, y, w, h in boxes:
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
        others = [box for box in boxes if box != (x, y, w, h)]
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in others)


def test_the_command_writes_picture_and_record_without_any_store(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain.parents[3])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["lineage", "bundle=third"]) == 0
    printed = capsys.readouterr()
    assert "story.txt" in printed.out
    assert "not checked: there is no MLflow store" in printed.err
    record = json.loads((chain.parents[1] / "lineage.json").read_text())
    assert record["kind"] == "run"
    assert (chain.parents[1] / "lineage.svg").read_text().startswith("<svg")


def test_an_unknown_name_is_answered_with_the_names_that_there_are(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain.parents[3])
    assert main(["lineage", "bundle=fourth", "tracking=off"]) == 2
    error = capsys.readouterr().err
    assert "no bundle 'fourth'" in error
    assert "third" in error


def test_of_many_evaluations_the_newest_are_shown_and_the_rest_counted(chain: Path) -> None:
    for number in range(9):
        run = make_run(chain.parents[2] / f"measured-{number}", stage="evaluate", data="imdb")
        (run / "config.yaml").write_text("bundle: third\n")
    titles = [node.title for node in nodes(traced(chain), "evaluation")]
    assert len(titles) == 7
    assert titles[-1] == "and 3 older ones"

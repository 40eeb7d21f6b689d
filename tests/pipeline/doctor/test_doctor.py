"""What is left behind is found, told, and put right only where that is asked for."""

import json
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from datamodules.cache import RowWriter, TokenCache
from pipeline import doctor
from pipeline.__main__ import main
from pipeline.doctor import Finding
from tests.pipeline.made_bundles import make_bundle, make_run

DiskUse = namedtuple("DiskUse", "total used free")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def aged(path: Path, *, folder: bool = True) -> Path:
    """A file or folder that nobody has written for an hour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def leftovers(project: Path) -> list[Finding]:
    return list(doctor.leftovers(project / "runs", project / ".cache"))


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What doctor prints, on one line each: standard output and standard error."""
    capsys.readouterr()
    assert main(["doctor", "tracking=off", *words]) == 0
    printed = capsys.readouterr()
    return printed.out, printed.err


@pytest.fixture
def mess(project: Path) -> list[Path]:
    """All that a killed process can leave, and beside each something that must stay."""
    make_run(project / "runs/dead", status="RUNNING")
    make_bundle(project / "runs/whole")
    old = make_bundle(project / "runs/swapped")
    old.rename(old.with_name(".best.old"))
    return [
        aged(project / "runs/whole/bundles/.last.draft"),
        aged(project / "runs/whole/checkpoints/.last.ckpt.draft", folder=False),
        aged(project / ".cache/corpora/.x.part", folder=False),
        aged(project / ".cache/rows/abc"),
        aged(project / ".cache/rows/gone.lock", folder=False),
        aged(project / "runs/empty"),
    ]


def test_without_fix_everything_is_told_and_nothing_is_changed(
    project: Path, mess: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(project)
    _, err = call(capsys)
    told = "".join(line[5:54].strip() for line in err.splitlines())
    for path in [*mess, project / "runs/dead", project / "runs/swapped/bundles/.best.old"]:
        assert path.name in told
    assert "8 findings" in err
    assert 'ARGS="fix=true"  fixes the 8' in err
    assert snapshot(project) == before


def test_with_fix_all_of_it_is_put_right_and_the_next_look_finds_nothing(
    project: Path, mess: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = snapshot(project / "runs/whole/bundles/best")
    _, err = call(capsys, "fix=true")
    assert err.count("Done ") == 8
    assert not [path for path in mess if path.exists()]
    assert (project / "runs/swapped/bundles/best/DONE").exists()
    assert json.loads((project / "runs/dead/run.json").read_text())["status"] == "KILLED"
    assert snapshot(project / "runs/whole/bundles/best") == kept
    assert "none: no problems were found" in call(capsys)[1]


def test_a_run_that_a_process_holds_is_left_alone_with_all_its_drafts(project: Path) -> None:
    run = make_run(project / "runs/alive", status="RUNNING")
    aged(run / "bundles/.best.draft")
    with FileLock(run / ".lock"):
        assert not list(doctor.dead_runs(project / "runs"))
        assert not leftovers(project)
    assert len(list(doctor.dead_runs(project / "runs"))) == 1


def test_a_cache_folder_that_a_process_builds_is_left_alone(project: Path) -> None:
    aged(project / ".cache/rows/abc")
    with FileLock(project / ".cache/rows/abc.lock"):
        assert not leftovers(project)
    assert [finding.what for finding in leftovers(project)] == [
        f"{project / '.cache/rows/abc'} has no manifest.json: writing it was interrupted"
    ]


def test_what_came_to_be_used_between_look_and_fix_is_left_as_it_is(project: Path) -> None:
    folder = aged(project / ".cache/rows/abc")
    lock = aged(project / ".cache/rows/abc.lock", folder=False)
    (finding,) = leftovers(project)
    assert finding.fix is not None
    with FileLock(lock):
        assert "in use again" in finding.fix()
    assert folder.exists()


def test_a_draft_of_this_moment_may_be_somebodys_work(project: Path) -> None:
    (project / ".cache").mkdir()
    (project / ".cache/.x.part").touch()
    assert not leftovers(project)


def test_a_folder_without_record_that_holds_files_is_told_and_never_deleted(project: Path) -> None:
    folder = project / "runs/mine"
    aged(folder / "notes.txt", folder=False)
    aged(folder)
    (finding,) = leftovers(project)
    assert "notes.txt" in finding.what
    assert finding.fix is None


@pytest.mark.parametrize(("file", "deep"), [("metrics.json", False), ("model.safetensors", True)])
def test_a_damaged_bundle_is_found_and_its_weights_are_read_with_deep_alone(
    project: Path, file: str, deep: bool
) -> None:
    folder = make_bundle(project / "runs/a")
    (folder / file).write_bytes(b"flipped")
    found = {asked: list(doctor.damaged_bundles(project / "runs", deep=asked)) for asked in (False, True)}
    assert [len(found[False]), len(found[True])] == [0 if deep else 1, 1]
    assert file in found[True][0].what


def test_weights_that_are_gone_are_missed_without_deep(project: Path) -> None:
    (make_bundle(project / "runs/a") / "model.safetensors").unlink()
    (finding,) = doctor.damaged_bundles(project / "runs", deep=False)
    assert "is missing" in finding.what


def test_a_flipped_byte_of_token_rows_is_found_with_deep(project: Path) -> None:
    def build(writer: RowWriter) -> dict[str, int]:
        writer.write(np.ones((4, 8), np.int32), np.zeros((4, 8), np.int32))
        return {}

    TokenCache(project / ".cache/rows").get_or_build("abc", {}, build, vocab_size=10)
    file = project / ".cache/rows/abc/data.arrow"
    assert not list(doctor.damaged_rows(project / ".cache", deep=True))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (finding,) = doctor.damaged_rows(project / ".cache", deep=True)
    assert "sha256" in finding.what


def test_a_file_of_two_names_takes_its_room_once(project: Path) -> None:
    folder = make_bundle(project / "runs/a", weights=b"x" * 1000)
    os.link(folder / "model.safetensors", project / "runs/a/copy")
    use = {sort.what: sort for sort in doctor.disk_use(project / "runs", project / ".cache", None)}
    assert use["bundles"].n_files == 8
    assert use["bundles"].n_bytes >= 1000
    assert use["other files of runs"].n_files == 2  # run.json and config.yaml


def test_a_nearly_full_disk_is_told_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUse(10**12, 10**12, 10**8))
    (finding,) = doctor.disk_problems(project / "runs", project / ".cache", project)
    assert finding.what.startswith("only 0.1 GB are free")


def test_a_file_where_a_folder_belongs_is_told(project: Path) -> None:
    (project / "runs").touch()
    (finding,) = doctor.disk_problems(project / "runs")
    assert finding.what.endswith("runs is not writable")


def test_versions_are_held_against_what_the_project_asks_for(tmp_path: Path) -> None:
    dependencies = ["lightning<0.1", "torch>=1", "mlflow>=1", "datasets>=1", "tokenizers>=0.1"]
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nrequires-python = ">=3.11"\ndependencies = {json.dumps(dependencies)}\n'
    )
    (tmp_path / "constraints.txt").write_text("torch==9.9\n# a comment\nLightning==0.0.1\n")
    facts = {fact.what: fact for fact in doctor.versions(tmp_path)}
    assert [name for name, fact in facts.items() if not fact.fits] == ["lightning"]
    assert (facts["torch"].tested, facts["lightning"].tested) == ("9.9", "0.0.1")
    (finding,) = doctor.version_problems(list(facts.values()))
    assert "requires <0.1" in finding.what


def test_this_environment_is_one_that_the_project_works_with() -> None:
    assert not list(doctor.version_problems(doctor.versions()))


def test_an_empty_project_is_as_it_should_be(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = call(capsys)
    assert "none: no problems were found" in err
    for word in ("torch", "memory", "bundles", "token rows"):
        assert word in out
    assert not list(project.iterdir())

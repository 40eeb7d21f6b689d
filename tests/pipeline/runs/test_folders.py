"""Run folders: made once, locked while in use, found again."""

import contextlib
import os
from pathlib import Path

import pytest

from pipeline.config.plain import Config
from pipeline.errors import BundleError, RunError
from pipeline.runs import bundle
from pipeline.runs.find import find_bundle
from pipeline.runs.folders import RunFolder, list_runs, open_run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        {
            "stage": {"name": "pretrain", "uses": []},
            "choices": {"task": "causal_lm"},
            "name": None,
            "resume": False,
            "runs_dir": str(tmp_path / "runs"),
            "seed": 1,
        }
    )


def changed(config: Config, **keys: object) -> Config:
    return Config({**config, **keys})


def die_with_a_checkpoint(config: Config) -> RunFolder:
    """A run that fails after it has saved a checkpoint."""
    with contextlib.suppress(ZeroDivisionError), open_run(config, label="x") as run:
        run.checkpoints.mkdir()
        run.last_checkpoint.touch()
        raise ZeroDivisionError
    return run


def finish(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / bundle.DONE).write_text("{}")
    return folder


def test_two_runs_of_one_name_get_folders_of_their_own(config: Config) -> None:
    config = changed(config, name="same")
    with open_run(config, label="x") as first, open_run(config, label="x") as second:
        assert first.path != second.path
        assert second.name == "same-2"


def test_a_run_ends_with_the_status_that_it_had(config: Config) -> None:
    with open_run(config, label="good"):
        pass
    with pytest.raises(ZeroDivisionError), open_run(config, label="bad"):
        raise ZeroDivisionError
    assert {run.record.status for run in list_runs(Path(config.runs_dir))} == {"FINISHED", "FAILED"}


def test_an_unfinished_run_with_a_checkpoint_is_resumed(config: Config) -> None:
    run = die_with_a_checkpoint(config)
    config = changed(config, resume=True)
    with open_run(config, label="x") as again:
        assert again.resumed
        assert again.path == run.path


def test_a_run_of_another_configuration_is_not_resumed(config: Config) -> None:
    run = die_with_a_checkpoint(config)
    config = changed(config, resume=True, seed=2)
    with (
        pytest.raises(RunError, match="no unfinished pretrain run with this configuration"),
        open_run(config, label="x"),
    ):
        pass
    config = changed(config, resume=run.name)
    with (
        pytest.raises(RunError, match=r"(?s)was started with seed=1, not 2; .* start a new run"),
        open_run(config, label="x"),
    ):
        pass
    assert [each.record.status for each in list_runs(Path(config.runs_dir))] == ["FAILED"]
    with open_run(changed(config, seed=1), label="x") as again:
        assert again.path == run.path


def test_a_resumed_run_that_fails_before_its_next_checkpoint_keeps_what_it_had_recorded(
    config: Config,
) -> None:
    run = die_with_a_checkpoint(changed(config, prompts=["Once"]))
    other = changed(config, resume=run.name, prompts=["Twice"])
    files = [run.path / "config.yaml", run.path / "run.json"]
    before = [file.read_bytes() for file in files]
    with contextlib.suppress(ZeroDivisionError), open_run(other, label="x"):
        assert "Twice" in files[0].read_text()
        raise ZeroDivisionError
    assert [file.read_bytes() for file in files] == before
    with contextlib.suppress(ZeroDivisionError), open_run(other, label="x") as again:
        os.utime(again.last_checkpoint, (0, again.last_checkpoint.stat().st_mtime + 1))
        raise ZeroDivisionError
    assert "Twice" in files[0].read_text()
    assert again.record.changes


def test_a_run_in_use_is_not_resumed_by_a_second_process(config: Config) -> None:
    with open_run(config, label="x") as run:
        run.checkpoints.mkdir()
        run.last_checkpoint.touch()
        config = changed(config, resume=run.name)
        with pytest.raises(RunError, match="is in use by another process"), open_run(config, label="x"):
            pass


def test_an_unwritable_runs_folder_is_an_error_before_anything_starts(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = changed(config, runs_dir=str(tmp_path / "file" / "runs"))
    with pytest.raises(RunError, match="cannot create a run folder"), open_run(config, label="x"):
        pass


def test_the_newest_finished_bundle_is_latest(config: Config) -> None:
    for label in ("old", "new", "unfinished"):
        with open_run(config, label=label) as run:
            if label != "unfinished":
                newest = finish(run.bundles / "best")
    assert find_bundle("latest", Path(config.runs_dir)) == newest


def test_a_bundle_is_found_by_name_by_run_folder_and_by_its_own_folder(config: Config) -> None:
    with open_run(config, label="x") as run:
        folder = finish(run.bundles / "best")
    for spec in (run.name, str(run.path), str(folder)):
        assert find_bundle(spec, Path(config.runs_dir)) == folder


def test_an_unfinished_bundle_and_an_unknown_one_are_told_apart(config: Config) -> None:
    run = die_with_a_checkpoint(config)
    with pytest.raises(BundleError, match=r"(?s)is not a finished bundle; .* finish its run with RESUME=1"):
        find_bundle(run.name, Path(config.runs_dir))
    with pytest.raises(BundleError, match="no bundle 'nowhere'"):
        find_bundle("nowhere", Path(config.runs_dir))


def test_a_finished_run_is_not_to_be_resumed_for_its_bundle(config: Config) -> None:
    """Where it made one it can be made again, and where it makes none there is nothing to wait for."""
    with open_run(config, label="trained") as trained:
        folder = finish(trained.bundles / "best")
        trained.keep(folder / bundle.DONE)
    (folder / bundle.DONE).unlink()
    again = f"(?s)deleted or is incomplete; .*hint: recreate it with `make reproduce RUN={trained.name}`"
    for spec in (trained.name, str(trained.path), str(folder)):
        with pytest.raises(BundleError, match=again):
            find_bundle(spec, Path(config.runs_dir))
    with open_run(config, label="other") as other:
        pass
    with pytest.raises(BundleError, match=r"(?s)pretrain does not write one; .*hint: name another"):
        find_bundle(other.name, Path(config.runs_dir))

"""Run folders: the files of one run of a stage, its lock, and its record.

runs/NAME/
  config.yaml      the resolved configuration, with all defaults and what was chosen for the machine
  run.json         stage, status, hash of the configuration, chosen options, inputs, hashes of its outputs
  checkpoints/     last.ckpt and best.ckpt, for resuming only
  bundles/         best and last, for use
  tracking/        the local spool of what is logged
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline import processes, report
from pipeline.config.plain import Config, to_plain
from pipeline.config.recorded import config_hash, with_defaults
from pipeline.config.trials import sweep_of
from pipeline.errors import ConfigError, RunError, RunInterrupted, Stopped
from pipeline.files import to_yaml, write_whole
from pipeline.machine.choice import COMPILE, as_asked, choose_again, choose_for_machine, with_chosen
from pipeline.rendezvous import heartbeats, rendezvous
from pipeline.runs import bundle
from pipeline.runs.changes import LONGER, Changes, brief, check_changes, describe, leaves
from pipeline.runs.record import RunFolder, RunRecord, with_original
from pipeline.tracking.options import resolve_store

__all__ = [
    "MAX_NAME_LENGTH",
    "NOT_IDENTITY",
    "RunFolder",
    "RunRecord",
    "changes_of",
    "list_runs",
    "made_bundle",
    "named_run",
    "open_run",
]

#: Keys that do not affect the results; a run may be resumed with other values.
NOT_IDENTITY = (
    *("resume", "name", "runs_dir", "cache_dir", "tracking", "bundle", "choices"),
    "pipeline_id",
)

#: The longest name of a run, in characters. File systems allow 255 bytes, and stages append to the name.
MAX_NAME_LENGTH = 60


@contextmanager
def open_run(
    config: Config,
    *,
    label: str,
    inputs: Mapping[str, str] | None = None,
    found: RunFolder | None = None,
) -> Iterator[RunFolder]:
    """Open a new run folder for `config`, or the unfinished one that `resume` names, locked while in use.

    Args:
        config: the resolved configuration.
        label: the prefix of the default name of a run.
        inputs: the recorded inputs of the run.
        found: the run to resume, for a stage that finds its unfinished runs itself.

    Raises:
        RunError: if the folder cannot be written, is in use, or there is nothing to resume.
        TrackingError: if the URI of the store is invalid.
    """
    if (folder := processes.shared_run() or _rendezvous(config, inputs or {})) is not None:
        yield _join(folder)
        return
    _check_store(config)
    run = found or _find_or_create(config, label)
    with _locked(run):
        chosen = choose_again(config, run.record.chosen)
        changes = {} if found else changes_of(run, with_chosen(config, chosen))
        before = _Before.of(run) if run.last_checkpoint.exists() else None
        try:
            if chosen is None:
                chosen = choose_for_machine(config)
            write_whole(run.path / "config.yaml", to_yaml(with_defaults(with_chosen(config, chosen))))
            run.write(
                status="RUNNING",
                chosen=chosen,
                config_hash=config_hash(as_asked(config, chosen), without=NOT_IDENTITY),
                inputs=with_original(run, inputs, _as_inputs(changes)),
                changes=[*(run.record.changes or []), *_dated(changes)] or None,
                pipeline_id=config.get("pipeline_id") or run.record.pipeline_id,
                sweep_id=sweep_of(config),
            )
            with _sharing(run):
                yield run
            run.write(status="FINISHED")
        except BaseException as error:
            if isinstance(error, Stopped) and run.last_checkpoint.exists():
                word = processes.word_to_resume()
                error.hint = f"run the same command with {word} to resume from the last checkpoint"
            status = "KILLED" if isinstance(error, (Stopped, RunInterrupted)) else "FAILED"
            with suppress(OSError):  # a full disk has already been reported
                if status == "FAILED" and before is not None and before.is_latest:
                    before.restore()
                else:
                    run.write(status=status)
            raise


@dataclass(frozen=True)
class _Before:
    """What a run with a checkpoint had recorded before it was resumed.

    It is restored if the run fails before it saves a checkpoint with the changed options: they would
    otherwise be those of the next attempt.
    """

    run: RunFolder
    config: str
    record: RunRecord
    saved: float

    @classmethod
    def of(cls, run: RunFolder) -> "_Before":
        """Read the record of a run."""
        config = (run.path / "config.yaml").read_text(encoding="utf-8")
        return cls(run, config, replace(run.record), run.last_checkpoint.stat().st_mtime)

    @property
    def is_latest(self) -> bool:
        """Whether no checkpoint was saved since."""
        last = self.run.last_checkpoint
        return last.exists() and last.stat().st_mtime == self.saved

    def restore(self) -> None:
        """Write it again; a run that had been killed has failed."""
        write_whole(self.run.path / "config.yaml", self.config)
        status = "FAILED" if self.record.status == "RUNNING" else self.record.status
        self.run.write(**{**vars(self.record), "status": status})


def _find_or_create(config: Config, label: str) -> RunFolder:
    resume = config.get("resume", False)
    if isinstance(resume, str):
        return named_run(config)
    return _newest_unfinished(config) if resume else _create(config, Path(config.runs_dir), label)


def _as_inputs(changes: Changes) -> dict[str, str]:
    return {key: brief(now) for key, (_, now) in changes.items()}


def _dated(changes: Changes) -> list[str]:
    """Report the changes, and return them with the time."""
    for change in describe(changes):
        report.say("Changed", change)
    return [f"{datetime.now().astimezone().isoformat()} {change}" for change in describe(changes)]


def _check_store(config: Config) -> None:
    """Reject a store with an invalid URI before the run's folder is created."""
    tracking = config.get("tracking")
    if tracking and tracking.get("enabled", True):
        resolve_store(tracking.get("uri"), project_folder=Path.cwd(), environ=os.environ)


def _rendezvous(config: Config, inputs: Mapping[str, str]) -> Path | None:
    """Return the run that the first process of a torchrun or srun created; None in that process."""
    if processes.count_launched() == 1:
        return None
    folder = rendezvous().join({**dict(leaves(to_plain(config))), **inputs})
    if folder is not None:
        heartbeats().start()
    return folder


@contextmanager
def _sharing(run: RunFolder) -> Iterator[None]:
    """Tell the other processes of the run its folder."""
    if processes.count_launched() > 1:
        rendezvous().share(run.path)
        heartbeats().start()
        yield
    else:
        with processes.sharing_run(run.path):
            yield


def _join(folder: Path) -> RunFolder:
    """Open the first process's run in another process, which does not write to it."""
    record = RunRecord(**json.loads((folder / "run.json").read_text(encoding="utf-8")))
    run = RunFolder(folder, record)
    run.resumed = run.last_checkpoint.exists()
    return run


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """Return all runs under `runs_dir`, newest first; unreadable ones are skipped and reported."""
    runs = []
    for file in runs_dir.glob("*/run.json"):
        try:
            runs.append(RunFolder(file.parent, RunRecord(**json.loads(file.read_text(encoding="utf-8")))))
        except (OSError, ValueError, TypeError) as error:
            print(f"note: {file} cannot be read, so this run is skipped ({error})", file=sys.stderr)
    return sorted(runs, key=lambda run: run.record.created, reverse=True)


def made_bundle(run: RunFolder) -> bool:
    """Return whether the run wrote a bundle, even if it was moved or deleted."""
    return f"bundles/best/{bundle.DONE}" in (run.record.made or {})


def _create(config: Config, runs_dir: Path, label: str) -> RunFolder:
    now = datetime.now().astimezone()
    name = _checked(config.name) if config.name else f"{label}-{now:%H%M}".replace("/", "-")
    record = RunRecord(
        name=name,
        stage=config.stage.name,
        config_hash=config_hash(config, without=NOT_IDENTITY),
        created=now.isoformat(),
        choices=dict(config.choices),
    )
    try:
        path = _unused(runs_dir, name)
    except OSError as error:
        raise RunError(
            f"cannot create a run folder in {runs_dir} ({error.strerror})",
            "a writable folder",
            "choose another folder with runs_dir=PATH",
        ) from error
    record.name = path.name
    return RunFolder(path, record)


def _checked(name: str) -> str:
    """Check that the name of a run is a valid folder name and easy to type."""
    if "/" in name or name[0] in ".-" or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise ConfigError(
            f"name={name[:MAX_NAME_LENGTH]!r} is not a valid name of a run",
            f"at most {MAX_NAME_LENGTH} printable characters, no '/', and no leading '.' or '-'",
            "choose another name",
        )
    return name


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Lock the run; the operating system releases the lock if the process dies."""
    lock = FileLock(run.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{run.path} is in use by another process",
            "a run that no other process is using",
            "wait until it ends, or start a new run without RESUME",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _unused(runs_dir: Path, name: str) -> Path:
    """Create a folder with an unused name; `mkdir` is atomic, so two processes never get the same one."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = runs_dir / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(0, f"there are 1000 runs called {name}")


def named_run(config: Config) -> RunFolder:
    """Return the run of the stage that `resume` names.

    Raises:
        RunError: if there is no such run, or it cannot be resumed.
    """
    runs_dir = Path(config.runs_dir)
    runs = _runs_with_checkpoint(config, runs_dir)
    for run in runs:
        if config.resume in (run.name, str(run.path), f"{run.path}/"):
            return RunFolder(run.path, run.record, resumed=True)
    raise _none_unfinished(config, runs, f"called '{config.resume}'")


def _newest_unfinished(config: Config) -> RunFolder:
    """Return the newest unfinished run of this configuration."""
    expected = {config_hash(config, without=NOT_IDENTITY)}
    if "trainer" in config:  # as recorded by versions that did not choose it
        expected.add(config_hash(with_chosen(config, {COMPILE: False}), without=NOT_IDENTITY))
    runs = _runs_with_checkpoint(config, Path(config.runs_dir))
    for run in runs:
        if run.record.status != "FINISHED" and run.record.config_hash in expected:
            return RunFolder(run.path, run.record, resumed=True)
    raise _none_unfinished(config, runs, "with this configuration")


def _runs_with_checkpoint(config: Config, runs_dir: Path) -> list[RunFolder]:
    runs = [run for run in list_runs(runs_dir) if run.record.stage == config.stage.name]
    return [run for run in runs if run.last_checkpoint.exists()]


def _none_unfinished(config: Config, runs: Sequence[RunFolder], what: str) -> RunError:
    names = [run.name for run in runs if run.record.status != "FINISHED"]
    return RunError(
        f"there is no unfinished {config.stage.name} run {what} in {config.runs_dir}",
        f"a run with a checkpoint ({', '.join(names[:5]) or 'none yet'})",
        "name one with RESUME=NAME, or start a new run without RESUME",
    )


def changes_of(run: RunFolder, config: Config) -> Changes:
    """Return the changes to a resumed run.

    Raises:
        RunError: if the run is finished and would not train longer, or a change is not allowed.
    """
    if not run.resumed:
        return {}
    changes = check_changes(run, config)
    if run.record.status == "FINISHED" and not changes.keys() & set(LONGER):
        raise RunError(
            f"{run.path} is finished",
            "an unfinished run",
            f"use its bundle {run.bundles / 'best'}, or train it longer: RESUME={run.name} with a larger "
            "trainer.max_steps",
        )
    return changes

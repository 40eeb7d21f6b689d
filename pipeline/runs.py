"""Run folders: where one run of a stage keeps what it writes, who is using it, and how it ended.

runs/NAME/
  config.yaml      the resolved configuration, with all defaults and what was chosen for the machine
  run.json         stage, status, hash of the configuration, options chosen, inputs, hashes of what it made
  checkpoints/     last.ckpt and best.ckpt, for resuming only
  bundles/         best and last, for use
  tracking/        the local spool of what is logged
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import bundle, processes
from pipeline.errors import ConfigError, RunError, RunInterrupted, Stopped
from pipeline.files import read_yaml, to_yaml, write_whole
from pipeline.machine import as_asked, choose_for_machine, with_chosen
from pipeline.plain import Config, select
from pipeline.run_folder import SWEEP_TAG, RunFolder, RunRecord, with_its_beginning
from pipeline.settings import config_hash, with_defaults
from pipeline.tracking.options import resolve_store

__all__ = [
    "MAX_NAME_LENGTH",
    "NOT_IDENTITY",
    "RunFolder",
    "RunRecord",
    "list_runs",
    "made_bundle",
    "open_run",
]

#: Keys that say how to run, not what: a run may be resumed with others.
NOT_IDENTITY = (
    *("resume", "name", "runs_dir", "cache_dir", "tracking", "bundle", "choices"),
    "pipeline_id",
)

#: File systems allow 255 bytes, and a stage adds to it.
MAX_NAME_LENGTH = 60

#: Keys that a checkpoint depends on: a run is resumed with those that it began with.
FIXED = (
    "task",
    "model",
    "data",
    "tokenizer",
    "tokenizer_text_bytes",
    "cleaning",
    "packing",
    "optimizer",
    "freezing",
    "init_from",
    "trainer.batch_size",
    "trainer.accumulate",
    "trainer.ema_decay",
)


@contextmanager
def open_run(
    config: Config,
    *,
    label: str,
    inputs: Mapping[str, str] | None = None,
    found: RunFolder | None = None,
) -> Iterator[RunFolder]:
    """A new run folder for `config`, or the unfinished one that `resume` asks for, locked while in use.

    Args:
        config: the resolved configuration.
        label: begins the name of a run that is given none.
        inputs: what is recorded as that which the run is made from.
        found: the run to go on with, of a stage that finds its unfinished runs itself.

    Raises:
        RunError: if the folder cannot be written, is in use, or there is nothing to resume.
        TrackingError: if the address of the store can never work.
    """
    if (folder := processes.shared_run()) is not None:
        yield _join(folder)
        return
    _check_store(config)
    runs_dir = Path(config.runs_dir)
    resume = config.get("resume", False)
    if found is None:
        found = _find_unfinished(config, runs_dir, resume) if resume else _create(config, runs_dir, label)
    run = found
    with _locked(run):
        try:
            chosen = choose_for_machine(config) if run.record.chosen is None else run.record.chosen
            write_whole(run.path / "config.yaml", to_yaml(with_defaults(with_chosen(config, chosen))))
            run.write(
                status="RUNNING",
                chosen=chosen,
                config_hash=config_hash(as_asked(config, chosen), without=NOT_IDENTITY),
                inputs=with_its_beginning(run, inputs),
                pipeline_id=config.get("pipeline_id") or run.record.pipeline_id,
                sweep_id=_sweep_of(config),
            )
            processes.share_run(run.path)
            yield run
            run.write(status="FINISHED")
        except BaseException as error:
            if isinstance(error, Stopped) and run.last_checkpoint.exists():
                error.hint = "run the same command with RESUME=1 to go on from the last checkpoint"
            with suppress(OSError):  # a full disk has been reported by what met it first
                run.write(status="KILLED" if isinstance(error, (Stopped, RunInterrupted)) else "FAILED")
            raise


def _sweep_of(config: Config) -> str | None:
    """The sweep that the run is a trial of, which tells its trials so by a tag."""
    tags: Mapping[str, str] = select(config, "tracking.tags") or {}
    return tags.get(SWEEP_TAG)


def _check_store(config: Config) -> None:
    """Refuse a store whose address can never work before there is a folder of the run."""
    tracking = config.get("tracking")
    if tracking and tracking.get("enabled", True):
        resolve_store(tracking.get("uri"), project_folder=Path.cwd(), environ=os.environ)


def _join(folder: Path) -> RunFolder:
    """The run of the first process, in a further one, which writes nothing of it."""
    record = RunRecord(**json.loads((folder / "run.json").read_text(encoding="utf-8")))
    run = RunFolder(folder, record)
    run.resumed = run.last_checkpoint.exists()
    return run


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """All runs under `runs_dir`, newest first; what is no run is passed over, and said."""
    runs = []
    for file in runs_dir.glob("*/run.json"):
        try:
            runs.append(RunFolder(file.parent, RunRecord(**json.loads(file.read_text(encoding="utf-8")))))
        except (OSError, ValueError, TypeError) as error:
            print(f"note: {file} cannot be read, so this run is passed over ({error})", file=sys.stderr)
    return sorted(runs, key=lambda run: run.record.created, reverse=True)


def made_bundle(run: RunFolder) -> bool:
    """Whether the run ended with a bundle, wherever that is now."""
    return f"bundles/best/{bundle.DONE}" in (run.record.made or {})


def _create(config: Config, runs_dir: Path, label: str) -> RunFolder:
    now = datetime.now().astimezone()
    name = _checked(config.name) if config.name else f"{label}-{now:%m%d-%H%M%S}".replace("/", "-")
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
            "a folder that can be written",
            "choose another with runs_dir=PATH",
        ) from error
    record.name = path.name
    return RunFolder(path, record)


def _checked(name: str) -> str:
    """A run's name: a folder that can be typed."""
    if "/" in name or name[0] in ".-" or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise ConfigError(
            f"name={name[:MAX_NAME_LENGTH]!r} cannot be a run's name",
            f"at most {MAX_NAME_LENGTH} printable characters, no '/', and no '.' or '-' at the beginning",
            "choose another name",
        )
    return name


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Hold the run; the system frees it when its holder dies."""
    lock = FileLock(run.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{run.path} is in use by another process",
            "a run that nobody is training",
            "wait until it ends, or start a new run without RESUME",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _unused(runs_dir: Path, name: str) -> Path:
    """A folder that this call has made: `mkdir` decides between two processes."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = runs_dir / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(0, f"1000 runs are called {name}")


def _find_unfinished(config: Config, runs_dir: Path, resume: bool | str) -> RunFolder:
    """The run to go on with: the one of that name, or the newest of this configuration."""
    wanted = config_hash(config, without=NOT_IDENTITY)
    runs = [run for run in list_runs(runs_dir) if run.record.stage == config.stage.name]
    unfinished = [run for run in runs if run.record.status != "FINISHED" and run.last_checkpoint.exists()]
    if isinstance(resume, str):
        found = [run for run in runs if resume in (run.name, str(run.path), f"{run.path}/")]
        found = [run for run in found if run.last_checkpoint.exists()]
    else:
        found = [run for run in unfinished if run.record.config_hash == wanted]
    if not found:
        what = f"called '{resume}'" if isinstance(resume, str) else "with this configuration"
        raise RunError(
            f"no unfinished {config.stage.name} run {what} in {runs_dir}",
            f"one with a checkpoint (there are: {', '.join(run.name for run in unfinished[:5]) or 'none'})",
            "name one with RESUME=name, or start anew without RESUME",
        )
    run = found[0]
    if run.record.status == "FINISHED" and run.record.config_hash == wanted:
        raise RunError(
            f"{run.path} is finished",
            "an unfinished run",
            f"use its bundle {run.bundles / 'best'}, or train it longer with a larger trainer.max_steps",
        )
    _check_fixed(config, run)
    return RunFolder(run.path, run.record, resumed=True)


def _check_fixed(config: Config, run: RunFolder) -> None:
    """Refuse to resume a run with another model or other data: its checkpoint would not fit."""
    recorded = Config(read_yaml(run.path / "config.yaml"))
    began, asked = (with_defaults(each) for each in (recorded, with_chosen(config, run.record.chosen)))
    for key in FIXED:
        before, now = select(began, key), select(asked, key)
        if before != now:
            raise RunError(
                f"{run.path} began with {key}={_brief(before)}, not {_brief(now)}",
                "the same model, data and batches as at its beginning",
                f"give {key} as it was (see {run.path / 'config.yaml'}), or start a new run",
            )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}…"

"""Run folders: where one run of a stage keeps what it writes, who is using it, and how it ended.

runs/NAME/
  config.yaml      the resolved configuration
  run.json         stage, status, hash of the configuration, tracking id, bundle
  checkpoints/     last.ckpt and best.ckpt, for resuming only
  bundles/         best and last, for use
  tracking/        the local spool of what is logged
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from pipeline import bundle
from pipeline.config import config_hash
from pipeline.errors import BundleError, RunError

#: Keys that say how to run, not what: a run may be resumed with others.
NOT_IDENTITY = ("resume", "name", "runs_dir", "cache_dir", "tracking", "bundle", "choices")


@dataclass(kw_only=True)
class RunRecord:
    """What `run.json` holds."""

    name: str
    stage: str
    config_hash: str
    created: str
    status: str = "RUNNING"
    tracking_id: str | None = None
    choices: dict[str, str] | None = None


class RunFolder:
    """The folder of one run, held by one process at a time."""

    def __init__(self, path: Path, record: RunRecord, *, resumed: bool = False) -> None:
        self.path = path
        self.record = record
        self.resumed = resumed

    @property
    def name(self) -> str:
        """The run's name, which is its folder's name too."""
        return self.record.name

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints for resuming lie."""
        return self.path / "checkpoints"

    @property
    def bundles(self) -> Path:
        """Where the finished bundles `best` and `last` lie."""
        return self.path / "bundles"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that a resumed run starts from."""
        return self.checkpoints / "last.ckpt"

    def write(self, **changes: Any) -> None:
        """Change the record and write it atomically."""
        for key, value in changes.items():
            setattr(self.record, key, value)
        draft = self.path / ".run.json.draft"
        draft.write_text(json.dumps(asdict(self.record), indent=2) + "\n", encoding="utf-8")
        os.replace(draft, self.path / "run.json")


@contextmanager
def open_run(config: DictConfig, *, label: str) -> Iterator[RunFolder]:
    """A new run folder for `config`, or the unfinished one that `resume` asks for, locked while in use.

    Raises:
        RunError: if the folder cannot be written, is in use, or there is nothing to resume.
    """
    runs_dir = Path(config.runs_dir)
    resume = config.get("resume", False)
    run = _find_unfinished(config, runs_dir, resume) if resume else _create(config, runs_dir, label)
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
        OmegaConf.save(config, run.path / "config.yaml")
        run.write(status="RUNNING")
        yield run
        run.write(status="FINISHED")
    except BaseException:
        run.write(status="FAILED")
        raise
    finally:
        lock.release()


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """All runs under `runs_dir`, newest first."""
    records = [
        (file.parent, RunRecord(**json.loads(file.read_text()))) for file in runs_dir.glob("*/run.json")
    ]
    records.sort(key=lambda pair: pair[1].created, reverse=True)
    return [RunFolder(path, record) for path, record in records]


def find_bundle(spec: str, runs_dir: Path) -> Path:
    """The bundle that `spec` names: `latest`, the name of a run, a run's folder or a bundle's folder.

    Raises:
        BundleError: if there is none, or it is not finished.
    """
    if spec == "latest":
        for run in list_runs(runs_dir):
            if bundle.is_finished(run.bundles / "best"):
                return run.bundles / "best"
        raise BundleError(
            f"no finished bundle under {runs_dir}", "at least one finished run", "run `make pretrain` first"
        )
    candidates = [Path(spec), Path(spec) / "bundles" / "best", runs_dir / spec / "bundles" / "best"]
    for folder in candidates:
        if bundle.is_finished(folder):
            return folder
    names = [run.name for run in list_runs(runs_dir) if bundle.is_finished(run.bundles / "best")]
    known = ", ".join(names[:5]) or "none yet"
    unfinished = next((folder for folder in candidates[1:] if folder.parent.parent.is_dir()), None)
    problem = f"{unfinished} is not a finished bundle" if unfinished else f"no bundle '{spec}'"
    raise BundleError(
        problem,
        f"a folder, or the name of a finished run ({known})",
        "let it finish with RESUME=1, or name another",
    )


def _create(config: DictConfig, runs_dir: Path, label: str) -> RunFolder:
    now = datetime.now().astimezone()
    name = (config.name or f"{label}-{now:%m%d-%H%M%S}").replace("/", "-")
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


def _find_unfinished(config: DictConfig, runs_dir: Path, resume: bool | str) -> RunFolder:
    wanted = config_hash(config, without=NOT_IDENTITY)
    runs = [run for run in list_runs(runs_dir) if run.record.stage == config.stage.name]
    if isinstance(resume, str):
        runs = [run for run in runs if resume in (run.name, str(run.path), f"{run.path}/")]
    else:
        runs = [run for run in runs if run.record.config_hash == wanted and run.record.status != "FINISHED"]
    runs = [run for run in runs if run.last_checkpoint.exists()]
    if not runs:
        what = f"called '{resume}'" if isinstance(resume, str) else "with this configuration"
        names = [run.name for run in list_runs(runs_dir) if run.last_checkpoint.exists()][:5]
        raise RunError(
            f"no unfinished {config.stage.name} run {what} in {runs_dir}",
            f"one with a checkpoint (there are: {', '.join(names) or 'none'})",
            "name one with RESUME=name, or start anew without RESUME",
        )
    run = runs[0]
    return RunFolder(run.path, run.record, resumed=True)

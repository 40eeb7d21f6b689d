"""What a run records of itself, and where in its folder it keeps things."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import sha256_of, write_whole

#: The input that says a run was begun with others: it is then made from neither alone.
BEGAN_WITH = "began with other inputs"

#: Inputs that are no keys of the configuration; nor are code and versions, whose names hold a space.
READ = ("rows", "bundle")

#: The tag that names the sweep of a trial.
SWEEP_TAG = "sweep_id"


@dataclass(kw_only=True)
class RunRecord:
    """What `run.json` holds.

    Args:
        name: that of the folder too.
        stage: what made it.
        config_hash: of the configuration less `NOT_IDENTITY`.
        created: when, in ISO 8601.
        status: RUNNING, FINISHED, FAILED or KILLED; RUNNING also of a process that died unseen.
        choices: the option of each group.
        inputs: what it is made from, by name (`pipeline.runs.inputs`); None where nobody recorded it.
        made: file of the folder -> sha256 of what others read of it.
        pipeline_id: the pipeline that it is a step of.
        sweep_id: the sweep that it is a trial of.
        chosen: what was left to the machine, by dotted key of the configuration (`pipeline.machine.choice`).
        changes: what was changed when it was resumed, in words, and when.
    """

    name: str
    stage: str
    config_hash: str
    created: str
    status: str = "RUNNING"
    choices: dict[str, str] | None = None
    inputs: dict[str, str] | None = None
    made: dict[str, str] | None = None
    pipeline_id: str | None = None
    sweep_id: str | None = None
    chosen: dict[str, Any] | None = None
    changes: list[str] | None = None


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

    def is_of(self, stage: str, task: str | None = None) -> bool:
        """Whether it is a run of this stage and, if one is given, of this task."""
        choices = self.record.choices or {}
        return self.record.stage == stage and task in (None, choices.get("task"))

    def keep(self, *files: Path) -> None:
        """Record files of the folder by their hash: who uses them later can tell whether they are whole."""
        hashes = {str(file.relative_to(self.path)): sha256_of(file) for file in files}
        self.write(made={**(self.record.made or {}), **hashes})

    def write(self, **changes: Any) -> None:
        """Change the record and write it atomically."""
        for key, value in changes.items():
            setattr(self.record, key, value)
        write_whole(self.path / "run.json", json.dumps(asdict(self.record), indent=2) + "\n")


def with_its_beginning(
    run: RunFolder, inputs: Mapping[str, str] | None, changed: Mapping[str, str] | None = None
) -> dict[str, str] | None:
    """The inputs; of a run that goes on with others than it began with, this is one of them.

    Args:
        run: with the inputs that it began with, if it goes on.
        inputs: what it is made from now.
        changed: the keys of the configuration that are changed, and their values; of a run that goes on the
            others are those that it began with, in whatever words it is resumed.
    """
    before = run.record.inputs
    if inputs is None or not run.resumed or before is None:
        return None if inputs is None else dict(inputs)
    read = {name: inputs.get(name, value) for name, value in before.items() if _is_read(name)}
    now = {**before, **read, **(changed or {})}
    if now == before:
        return now
    began = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12]
    return {**now, BEGAN_WITH: before.get(BEGAN_WITH, began)}


def _is_read(name: str) -> bool:
    """Whether an input is something that the run reads, not a key of its configuration."""
    return name in READ or " " in name

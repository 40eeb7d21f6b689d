"""The record of a run, and the layout of its folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import sha256_of, write_whole

#: The name of the input that marks a run which was resumed with different inputs.
BEGAN_WITH = "began with other inputs"

#: Inputs that are not keys of the configuration; the others are code and versions, whose names have a space.
READ = ("rows", "bundle")


@dataclass(kw_only=True)
class RunRecord:
    """The contents of `run.json`.

    Args:
        name: the name of the run and of its folder.
        stage: the stage that was run.
        config_hash: the hash of the configuration without `NOT_IDENTITY`.
        created: time of creation in ISO 8601.
        status: RUNNING, FINISHED, FAILED or KILLED; still RUNNING if the process was killed by SIGKILL.
        choices: the chosen option of each group.
        inputs: its inputs by name (`pipeline.runs.inputs`); None if they were not recorded.
        made: file in the folder -> sha256, for output files that later runs read.
        pipeline_id: the pipeline that it is a step of.
        sweep_id: the sweep that it is a trial of.
        chosen: values of `auto` options, by dotted key of the configuration (`pipeline.machine.choice`).
        changes: what was changed when it was resumed, and when.
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
    """The folder of one run, used by one process at a time."""

    def __init__(self, path: Path, record: RunRecord, *, resumed: bool = False) -> None:
        self.path = path
        self.record = record
        self.resumed = resumed

    @property
    def name(self) -> str:
        """The name of the run and of its folder."""
        return self.record.name

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints for resuming."""
        return self.path / "checkpoints"

    @property
    def bundles(self) -> Path:
        """The folder of the finished bundles `best` and `last`."""
        return self.path / "bundles"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that a resumed run starts from."""
        return self.checkpoints / "last.ckpt"

    def is_of(self, stage: str, task: str | None = None) -> bool:
        """Return whether this is a run of the stage and, if one is given, of the task."""
        choices = self.record.choices or {}
        return self.record.stage == stage and task in (None, choices.get("task"))

    def keep(self, *files: Path) -> None:
        """Record the hashes of files in the folder, so that later readers can verify them."""
        hashes = {str(file.relative_to(self.path)): sha256_of(file) for file in files}
        self.write(made={**(self.record.made or {}), **hashes})

    def write(self, **changes: Any) -> None:
        """Change the record and write it atomically."""
        for key, value in changes.items():
            setattr(self.record, key, value)
        write_whole(self.path / "run.json", json.dumps(asdict(self.record), indent=2) + "\n")


def with_original(
    run: RunFolder, inputs: Mapping[str, str] | None, changed: Mapping[str, str] | None = None
) -> dict[str, str] | None:
    """Return the inputs of a run, marked with `BEGAN_WITH` if it was resumed with different inputs.

    Args:
        run: the run; if it is resumed, its record has the original inputs.
        inputs: the current inputs.
        changed: the changed keys of the configuration and their values; a resumed run keeps the original
            values of all other keys, however the command was typed.
    """
    before = run.record.inputs
    if inputs is None or not run.resumed or before is None:
        return None if inputs is None else dict(inputs)
    read = {name: inputs.get(name, value) for name, value in before.items() if _is_read(name)}
    now = {**before, **read, **(changed or {})}
    if now == before:
        return now
    original = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12]
    return {**now, BEGAN_WITH: before.get(BEGAN_WITH, original)}


def _is_read(name: str) -> bool:
    """Return whether an input is something that the run reads, and not a key of its configuration."""
    return name in READ or " " in name

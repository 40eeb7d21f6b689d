"""The folder with the sharded tensors of a checkpoint: its name, its publication, its files.

last.ckpt            everything else, as of a checkpoint of one process, and which folder belongs to it
last.ckpt.sha256
last.shards-3/       files of torch.distributed.checkpoint: one of each process; .metadata tells what is where

The folder is written under another name, hashed and renamed, and then `last.ckpt` takes the place of the old
one: whenever a process dies, that file names a folder that is whole.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import sha256_of, sync

#: The entry of a checkpoint that tells of its folder: its name, its files and their SHA-256, its tensors.
SHARDS = "shards"


def next_folder(path: Path) -> Path:
    """Where the tensors of the next checkpoint at `path` are to lie; drafts of processes that died go."""
    for left in path.parent.glob(f".{path.stem}.{SHARDS}-*.draft"):
        shutil.rmtree(left)
    numbers = [int(number[1]) for each in folders_of(path) if (number := re.search(r"-(\d+)$", each.name))]
    return path.with_name(f"{path.stem}.{SHARDS}-{max(numbers, default=0) + 1}")


def folders_of(path: Path) -> list[Path]:
    """The folders of tensors of checkpoints at `path`: one, unless a process has died."""
    return [each for each in path.parent.glob(f"{path.stem}.{SHARDS}-*") if each.is_dir()]


def draft_folder(folder: Path) -> Path:
    """Where a folder is written before it gets its name."""
    return folder.with_name(f".{folder.name}.draft")


def discard_draft(folder: Path) -> None:
    """Remove what could not be written."""
    shutil.rmtree(draft_folder(folder), ignore_errors=True)


def publish(folder: Path) -> None:
    """Give the draft of `folder` its name, durably.

    Raises:
        OSError: it cannot be renamed.
    """
    sync(draft_folder(folder))
    draft_folder(folder).rename(folder)
    sync(folder.parent)


def discard_folders(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Remove the folders that the checkpoint at `path` does not name."""
    for folder in folders_of(path):
        if folder.name != checkpoint.get(SHARDS, {}).get("folder"):
            shutil.rmtree(folder)


def folder_named_by(path: Path, table: Mapping[str, Any]) -> Path:
    """The folder that the entry `SHARDS` of the checkpoint at `path` names.

    Raises:
        CheckpointError: there is no such folder.
    """
    name = table["folder"]
    found = {folder.name: folder for folder in folders_of(path)}
    if name not in found:
        raise CheckpointError(
            f"{path.parent / str(name)}, a part of {path.name}, is missing",
            "the folder with its tensors next to it",
            "copy both, or start a new run",
        )
    return found[name]


def verify(folder: Path, sums: Mapping[str, str]) -> None:
    """Check files of a folder.

    Raises:
        CheckpointError: one is missing or damaged; it is named.
    """
    for name, digest in sums.items():
        file = folder / name
        problem = "is missing" if not file.is_file() else "is damaged" if sha256_of(file) != digest else None
        if problem:
            raise CheckpointError(
                f"{file} {problem}, a part of the checkpoint",
                "the bytes that were written",
                "restore it from a copy, or start a new run",
            )

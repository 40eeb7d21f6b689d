"""The folder with the sharded tensors of a checkpoint: its name, its files, and how it is published.

last.ckpt            everything but sharded tensors, and the name of their folder
last.ckpt.sha256
last.shards-3/       files of torch.distributed.checkpoint: one per process, and the index .metadata

The folder is written under a temporary name, hashed and renamed. Then `last.ckpt` is replaced: at any time,
it names a complete folder.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import sha256_of, sync

#: The entry of a checkpoint about its folder: the name, the SHA-256 of the files, the keys of the tensors.
SHARDS = "shards"


def next_folder(path: Path) -> Path:
    """Return an unused folder for the next checkpoint at `path`; remove drafts of processes that died."""
    for left in path.parent.glob(f".{path.stem}.{SHARDS}-*.draft"):
        shutil.rmtree(left)
    numbers = [int(number[1]) for each in folders_of(path) if (number := re.search(r"-(\d+)$", each.name))]
    return path.with_name(f"{path.stem}.{SHARDS}-{max(numbers, default=0) + 1}")


def folders_of(path: Path) -> list[Path]:
    """Return the folders of checkpoints at `path`: one, unless a process has died."""
    return [each for each in path.parent.glob(f"{path.stem}.{SHARDS}-*") if each.is_dir()]


def draft_folder(folder: Path) -> Path:
    """Return the temporary name of `folder`, under which it is written."""
    return folder.with_name(f".{folder.name}.draft")


def discard_draft(folder: Path) -> None:
    """Remove a folder that was not published."""
    shutil.rmtree(draft_folder(folder), ignore_errors=True)


def publish(folder: Path) -> None:
    """Rename the draft of `folder`, durably.

    Raises:
        OSError: it cannot be renamed.
    """
    sync(draft_folder(folder))
    draft_folder(folder).rename(folder)
    sync(folder.parent)


def discard_folders(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Remove all folders of `path` except the one that `checkpoint` names."""
    for folder in folders_of(path):
        if folder.name != checkpoint.get(SHARDS, {}).get("folder"):
            shutil.rmtree(folder)


def folder_named_by(path: Path, table: Mapping[str, Any]) -> Path:
    """Return the folder that the entry `SHARDS` of the checkpoint at `path` names.

    Raises:
        CheckpointError: if there is no such folder.
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
    """Check the hashes of files in a folder.

    Raises:
        CheckpointError: with the name of the first file that is missing or damaged.
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

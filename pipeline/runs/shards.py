"""The sharded tensors of a checkpoint, written by all processes of a run and read by any number of them."""

import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from pipeline.errors import CheckpointError
from pipeline.files import sha256_of
from pipeline.runs.shard_folders import SHARDS, draft_folder, folder_named_by, verify

#: The file that tells what is where.
_METADATA = ".metadata"

#: Where a tensor belongs in a checkpoint: the keys that lead to it.
Place = tuple[str | int, ...]


def take_out(
    node: Any, is_taken: Callable[[Tensor], bool], place: Place = ()
) -> tuple[Any, dict[Place, Tensor]]:
    """A checkpoint without some tensors in its mappings, and these by their places."""
    if isinstance(node, Mapping):
        items: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    else:
        return node, {}
    kept: dict[Any, Any] = {}
    taken: dict[Place, Tensor] = {}
    for key, value in items:
        if isinstance(value, Tensor) and is_taken(value):
            taken[(*place, key)] = value
        else:
            kept[key], below = take_out(value, is_taken, (*place, key))
            taken |= below
    return (list(kept.values()) if isinstance(node, list) else kept), taken


def put_back(checkpoint: dict[str, Any], tensors: Mapping[Place, Tensor]) -> None:
    """Put each tensor into its place, which `take_out` has left empty."""
    for place, tensor in tensors.items():
        node: Any = checkpoint
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = tensor


def whole_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The checkpoint whose file at `path` holds `checkpoint`, with all tensors whole.

    Raises:
        CheckpointError: a file is missing, damaged or no checkpoint.
    """
    table = checkpoint[SHARDS]
    folder = folder_named_by(path, table)
    verify(folder, table["sha256"])
    made = {key: value for key, value in checkpoint.items() if key != SHARDS}
    put_back(made, read_shards(folder, [tuple(place) for place in table["tensors"]], None))
    return made


def write_shards(tensors: Mapping[Place, Tensor], folder: Path, rank: int) -> dict[str, str]:
    """Write what this process has of `tensors` to the draft of `folder`; gives the SHA-256 of its files.

    All processes write together.

    Raises:
        OSError: one of them cannot write.
    """
    draft = draft_folder(folder)
    named = {_name(place): tensor for place, tensor in tensors.items()}
    try:
        dcp.save(named, storage_writer=_Writer(draft))
    except dcp.CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from error
        raise
    own = [*draft.glob(f"__{rank}_*"), *([draft / _METADATA] if rank == 0 else [])]
    return {file.name: sha256_of(file) for file in own}


def read_shards(
    folder: Path, places: Iterable[Place], templates: Mapping[Place, Tensor] | None
) -> dict[Place, Tensor]:
    """Read tensors from a folder that was verified.

    Args:
        folder: the folder.
        places: which tensors.
        templates: sharded tensors, which are filled, however they are shared out. All processes
            read together. None: this process reads alone, and whole tensors.

    Raises:
        CheckpointError: the folder holds something else.
    """
    reader = _DataReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    by_name = {_name(place): place for place in places}
    filled: dict[str, Any] = {}
    for name, place in by_name.items():
        entry = stored.get(name)
        template = None if templates is None else templates.get(place)
        if not isinstance(entry, TensorStorageMetadata) or template is None is not templates:
            raise CheckpointError(
                f"{folder} and the model differ in {name}",
                "the model that the run began with",
                "start a new run",
            )
        filled[name] = torch.empty(entry.size, dtype=entry.properties.dtype) if template is None else template
        if filled[name].shape != entry.size:
            raise CheckpointError(
                f"{name} has the shape {tuple(entry.size)} in {folder}, not {tuple(filled[name].shape)}",
                "the model that the run began with",
                "start a new run",
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant
        dcp.load(filled, storage_reader=reader, no_dist=templates is None)
    return {by_name[name]: tensor for name, tensor in filled.items()}


class _Writer(dcp.FileSystemWriter):
    """Writes nothing of this machine into `.metadata`."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _DataReader(dcp.FileSystemReader):
    """Reads what is where without running code from the file, as torch's own reader would."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _METADATA).open("rb") as file:
            try:
                metadata = _DataUnpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.path} is not a checkpoint of this project ({error})",
                    "tensors and plain values",
                    "start a new run",
                ) from error
        assert isinstance(metadata, Metadata)
        return metadata


#: What describes tensors, and how it is built.
_DESCRIPTIONS = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
            *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}


class _DataUnpickler(pickle.Unpickler):
    """Builds what describes tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DESCRIPTIONS or (module == "torch" and _is_dtype(name)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not describe a tensor")


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


def _name(place: Place) -> str:
    return "/".join(map(str, place))

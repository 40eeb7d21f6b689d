"""Write the sharded tensors of a checkpoint from all processes, and read them in any number of processes."""

import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from pipeline.errors import CheckpointError
from pipeline.files import sha256_of
from pipeline.runs.shard_folders import SHARDS, draft_folder, folder_named_by, verify

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: The index of a folder: which part of which tensor is in which file.
_METADATA = ".metadata"

#: The position of a tensor in a checkpoint: the keys on the way to it.
Place = tuple[str | int, ...]


def take_out(
    node: Any, is_taken: Callable[[Tensor], bool], place: Place = ()
) -> tuple[Any, dict[Place, Tensor]]:
    """Return a checkpoint without the tensors that `is_taken` selects, and these tensors by position."""
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
    """Insert tensors at their positions, in place: the inverse of `take_out`."""
    for place, tensor in tensors.items():
        node: Any = checkpoint
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = tensor


def whole_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Complete `checkpoint`, the contents of the file at `path`, with the unsharded tensors of its folder.

    Raises:
        CheckpointError: if a file is missing, damaged or not a checkpoint.
    """
    table = checkpoint[SHARDS]
    folder = folder_named_by(path, table)
    verify(folder, table["sha256"])
    made = {key: value for key, value in checkpoint.items() if key != SHARDS}
    put_back(made, read_shards(folder, [tuple(place) for place in table["tensors"]], None))
    return made


def start_writing(
    tensors: Mapping[Place, Tensor], folder: Path, group: "ProcessGroup | None"
) -> "Future[Any]":
    """Copy this process's shards, and start to write the copy to the draft of `folder` in a thread.

    A collective operation of `group`, which needs a backend for the CPU; None: of this process alone.
    """
    stager = DefaultStager(StagingOptions(False, False, False, False))
    writing = async_save(
        {_name(place): tensor for place, tensor in tensors.items()},
        storage_writer=_Writer(draft_folder(folder)),
        process_group=group,
        async_stager=stager,
    )
    assert isinstance(writing, Future)  # since the stager copies at once
    writing.add_done_callback(lambda _: stager.close())
    return writing


def finish_writing(writing: "Future[Any]", folder: Path, rank: int) -> dict[str, str]:
    """Wait until all processes have written; return the SHA-256 of the files that this one has written.

    Raises:
        OSError: in all processes, if one of them cannot write; or in this one, if its files have vanished.
    """
    try:
        writing.result()
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from error
        raise
    draft = draft_folder(folder)
    own = [*draft.glob(f"__{rank}_*"), *([draft / _METADATA] if rank == 0 else [])]
    return {file.name: sha256_of(file) for file in own}


def read_shards(
    folder: Path, places: Iterable[Place], templates: Mapping[Place, Tensor] | None
) -> dict[Place, Tensor]:
    """Read tensors from a verified folder.

    Args:
        folder: the folder.
        places: the positions of the tensors to read.
        templates: sharded tensors to read into, with any sharding; then this is a collective operation. None:
            this process alone reads unsharded tensors.

    Raises:
        CheckpointError: if the folder does not have these tensors, in these shapes.
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
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended here
        load(filled, storage_reader=reader, no_dist=templates is None)
    return {by_name[name]: tensor for name, tensor in filled.items()}


class _Writer(FileSystemWriter):
    """A writer whose index does not contain the path of the folder, and that says why it cannot write."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # hidden by torch.save
                raise error.__context__ from None
            raise


class _DataReader(FileSystemReader):
    """A reader that unpickles the index without running code from it, unlike its base class."""

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


#: The classes and functions that an index consists of.
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
    """An unpickler for descriptions of tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DESCRIPTIONS or (module == "torch" and _is_dtype(name)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not describe a tensor")


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


def _name(place: Place) -> str:
    return "/".join(map(str, place))

"""Find a model to import: a folder or file on this machine, or a name on the hub."""

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import InteropError
from pipeline.interop.checkpoint import SMALL_FILES

#: The page that a model comes with, and as much of it as is read.
_PAGE, _PAGE_BYTES = "README.md", 1_000_000
_LICENCE_CHARACTERS = 100

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(source: str) -> tuple[Path, Mapping[str, str]]:
    """The folder or file, and what the hub says of it; a name that is no path is downloaded.

    Raises:
        InteropError: it is neither, or cannot be downloaded.
    """
    place = Path(source).expanduser()
    if place.exists():
        return place.resolve(), {}
    if not _NAME.fullmatch(source) or source.startswith("."):
        raise InteropError(
            f"there is no folder {source}",
            "the folder of a model, or a name on the hub such as org/model",
            "check the path",
        )
    return _download(source)


def _download(name: str) -> tuple[Path, Mapping[str, str]]:
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "model.safetensors.index.json", _PAGE, *SMALL_FILES]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub's client and its libraries raise too many to list
        raise InteropError(
            f"{name} is not a folder here, and cannot be downloaded from the hub ({type(error).__name__})",
            "the folder of a model, or the name of a public model on the hub and a network connection",
            "download it elsewhere with `hf download`, then run make import FROM=FOLDER",
        ) from error
    return folder, {"hub": name, "commit": folder.name}


def stated_licence(place: Path) -> str | None:
    """The licence that the head of a model's README.md names; None if it cannot be read, or names none."""
    from huggingface_hub import metadata_load

    page = place / _PAGE
    try:
        if page.stat().st_size > _PAGE_BYTES:
            return None
        found = (metadata_load(page) or {}).get("license")
    except Exception:  # a page for people: whatever is wrong with it, the model can be used
        return None
    return found[:_LICENCE_CHARACTERS] if isinstance(found, str) and found.strip() else None

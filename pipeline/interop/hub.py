"""Find a model to import: a folder or file on this machine, or a name on the Hugging Face Hub."""

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import InteropError
from pipeline.interop.checkpoint import SMALL_FILES

#: The model card, and the maximum size that is read.
_PAGE, _PAGE_BYTES = "README.md", 1_000_000
_LICENCE_CHARACTERS = 100

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(source: str) -> tuple[Path, Mapping[str, str]]:
    """Return the folder or file and, for a model downloaded from the hub, its name and commit.

    Raises:
        InteropError: the source is neither a path nor a name on the hub, or it cannot be downloaded.
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
    except Exception as error:  # the hub's client and its libraries raise many types
        raise InteropError(
            f"{name} is not a local folder and cannot be downloaded from the hub ({type(error).__name__})",
            "the folder of a model, or the name of a public model on the hub and a network connection",
            "download it elsewhere with `hf download`, then run make import FROM=FOLDER",
        ) from error
    return folder, {"hub": name, "commit": folder.name}


def stated_licence(place: Path) -> str | None:
    """Return the licence in the metadata of a model's README.md; None if there is none or it is invalid."""
    from huggingface_hub import metadata_load

    page = place / _PAGE
    try:
        if page.stat().st_size > _PAGE_BYTES:
            return None
        found = (metadata_load(page) or {}).get("license")
    except Exception:  # metadata are optional: an error in them must not prevent the import
        return None
    return found[:_LICENCE_CHARACTERS] if isinstance(found, str) and found.strip() else None

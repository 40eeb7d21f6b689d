"""Write explanations to a folder (pictures, JSON and a page), which is moved into place when complete."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import RunError
from pipeline.explain.page import render_explanations
from pipeline.explain.picture import save_attention, save_words
from pipeline.explain.shown import ExplainedRow
from pipeline.files import write_whole

PAGE = "index.html"


def check_folder(folder: Path) -> None:
    """Check that the folder can be created.

    Raises:
        RunError: the path exists or is not writable; nothing is left behind.
    """
    if folder.exists() or folder.is_symlink():
        raise RunError(f"{folder} exists", "a folder that does not exist yet", "choose another OUTPUT=FOLDER")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}."):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_folder(
    folder: Path, rows: Sequence[ExplainedRow], *, title: str, advance: Callable[[], None]
) -> None:
    """Write the files of all rows and the page; `advance` is called after each row.

    Raises:
        RunError: the folder cannot be written; nothing is left behind.
    """
    try:
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as drafts:
            draft = Path(drafts) / folder.name
            draft.mkdir()
            pictures = {}
            for row in rows:
                stem = f"row-{row.number:04}"
                write_whole(draft / f"{stem}.json", json.dumps(row.record(), ensure_ascii=False) + "\n")
                save_words(row, draft / f"{stem}.png")
                if row.explanation.attention is not None:
                    pictures[row.number] = f"{stem}-attention.png"
                    save_attention(row, draft / pictures[row.number])
                advance()
            write_whole(draft / PAGE, render_explanations(rows, title=title, pictures=pictures))
            draft.rename(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write {folder} ({error.strerror})",
        "a writable place with free space",
        "choose another OUTPUT=FOLDER, or free some space",
    )

"""Show the rows of a batch as text, ids, documents and labels, side by side (`make show-data`)."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rich.box import HORIZONTALS
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from datamodules.collate import Batch
from datamodules.corruption import IGNORE

# The number of tokens shown at the beginning and at the end of a longer document, besides sparse labels.
HEAD_TOKENS = 16
TAIL_TOKENS = 4

# Control characters -> their visible symbols, so that no text can control the terminal; line breaks are kept.
_PICTURES = {code: 0x2400 + code for code in range(32) if code != ord("\n")} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    # These reverse or hide adjacent text.
    **dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD),
}


class Pieces(Protocol):
    """The interface of a tokenizer that is needed to show rows."""

    def decode(self, ids: Any, /, *, keep_special: bool = False) -> str:
        """Return the text of these ids."""
        ...

    def decode_tokens(self, ids: Any, /) -> list[str]:
        """Return a printable piece for each id."""
        ...


def show_rows(batch: Batch, tokenizer: Pieces, n: int = 1) -> RenderableType:
    """Render the first `n` rows of a batch of any objective with rich.

    The column `doc` is the mask: a token attends only to its own document, and `pad` is padding. A `label` is
    the token to predict at a position, and a dot means that there is none.
    """
    arrays = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
    parts: list[RenderableType] = []
    for row in range(min(n, len(arrays["input_ids"]))):
        parts += _row(arrays, row, tokenizer)
    return Group(*parts)


def _row(arrays: dict[str, npt.NDArray[Any]], row: int, tokenizer: Pieces) -> Iterator[RenderableType]:
    labels = arrays["labels"][row]
    if "decoder_input_ids" not in arrays:
        yield Rule(Text(f"row {row}"), align="left")
        yield from _sequence(arrays, "", row, labels, tokenizer)
        return
    yield Rule(Text(f"row {row}, source (encoder)"), align="left")
    yield from _sequence(arrays, "", row, None, tokenizer)
    yield Rule(Text(f"row {row}, target (decoder)"), align="left")
    yield from _sequence(arrays, "decoder_", row, labels, tokenizer)


def _sequence(
    arrays: dict[str, npt.NDArray[Any]],
    prefix: str,
    row: int,
    labels: npt.NDArray[Any] | None,
    tokenizer: Pieces,
) -> Iterator[RenderableType]:
    """Yield one sequence of a row: its counts, its text, and its tokens."""
    ids = arrays[f"{prefix}input_ids"][row]
    positions = arrays[f"{prefix}position_ids"][row]
    segments = arrays.get(f"{prefix}segment_ids")
    documents = np.ones_like(ids) if segments is None else segments[row]
    yield _counts(documents, labels)
    for document in np.unique(documents[documents > 0]).tolist():
        text = tokenizer.decode(ids[documents == document], keep_special=True)
        yield Text.assemble((f"document {document}: ", "bold"), text.translate(_PICTURES))
    yield _tokens(ids, positions, documents, labels, tokenizer)


def _counts(documents: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> Text:
    n_tokens = int((documents > 0).sum())
    text = (
        f"{n_tokens} tokens, {len(documents) - n_tokens} padding, {int(documents.max(initial=0))} documents"
    )
    if labels is not None:
        text += f", {int((labels != IGNORE).sum())} labels"
    return Text(text, style="dim")


def _tokens(
    ids: npt.NDArray[Any],
    positions: npt.NDArray[Any],
    documents: npt.NDArray[Any],
    labels: npt.NDArray[Any] | None,
    tokenizer: Pieces,
) -> Table:
    """Return a table with one line per token, and a rule between documents."""
    table = Table(box=HORIZONTALS, pad_edge=False, header_style="bold")
    titles = ["column", "position", "doc", "id", "token", *([] if labels is None else ["label id", "label"])]
    for title in titles:
        right = title not in ("token", "label")
        table.add_column(title, justify="right" if right else "left", no_wrap=right, overflow="fold")
    pieces = tokenizer.decode_tokens(ids)
    label_pieces = _label_pieces(labels, tokenizer)
    marked = _sparse_labels(labels, len(ids))
    for column in _shown(documents, marked):
        if column is None:
            table.add_row(*["..."] * len(titles), style="dim")
            continue
        document = int(documents[column])
        cells = [column, positions[column], document or "pad", ids[column], pieces[column]]
        if labels is not None:
            hidden = labels[column] == IGNORE
            cells += ["." if hidden else labels[column], "." if hidden else label_pieces[column]]
        last_of_document = column + 1 < len(ids) and documents[column + 1] != document
        table.add_row(
            *(Text(str(cell).translate(_PICTURES).replace("\n", "\N{SYMBOL FOR NEWLINE}")) for cell in cells),
            end_section=last_of_document,
            style="dim" if not document else "bold" if marked[column] else "",
        )
    return table


def _label_pieces(labels: npt.NDArray[Any] | None, tokenizer: Pieces) -> Sequence[str]:
    if labels is None:
        return []
    pieces = np.full(len(labels), "", object)
    here = np.flatnonzero(labels != IGNORE)
    pieces[here] = tokenizer.decode_tokens(labels[here])
    return list(pieces)


def _shown(documents: npt.NDArray[Any], marked: npt.NDArray[np.bool_]) -> Iterator[int | None]:
    """Yield the columns to show (the ends of each document, and marked ones), with None for omitted ones."""
    borders = np.flatnonzero(np.diff(documents)) + 1
    keep = marked.copy()
    keep[1:] |= marked[:-1]
    keep[:-1] |= marked[1:]
    for run in np.split(np.arange(len(documents)), borders):
        inside = documents[run[0]] > 0
        keep[run[: HEAD_TOKENS if inside else 1]] = True
        keep[run[-TAIL_TOKENS if inside else len(run) :]] = True
    # A single omitted token takes no more room than the dots that would replace it.
    keep[1:-1] |= keep[:-2] & keep[2:]
    for column in range(len(keep)):
        if keep[column]:
            yield column
        elif keep[column - 1]:
            yield None


def _sparse_labels(labels: npt.NDArray[Any] | None, n_columns: int) -> npt.NDArray[np.bool_]:
    """Return which columns are labelled, if labels are few, so that these are of interest."""
    if labels is None or (labels != IGNORE).sum() * 2 > n_columns:
        return np.zeros(n_columns, bool)
    marked: npt.NDArray[np.bool_] = labels != IGNORE
    return marked

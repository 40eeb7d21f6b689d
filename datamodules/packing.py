"""Pack documents of any length into rows of a fixed length, with segment ids that separate the documents."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

CHUNK_TOKENS = 2**20
MIN_CHUNK_ROWS = 256

Ids = npt.NDArray[np.int32]
SegmentIds = npt.NDArray[np.uint16]
Chunk = tuple[Ids, SegmentIds]
# A chunk and, for each of its rows, how many of its tokens are also in an earlier row.
_CountedChunk = tuple[Ids, SegmentIds, npt.NDArray[np.int64]]


@dataclass
class PackingReport:
    """Counts of what packing did with the tokens, where tokens == kept + dropped.

    They are complete once the stream of rows is exhausted or closed.
    """

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    padding: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts as plain values, for manifests and tracking."""
        return asdict(self)


def pack(
    documents: Iterable[npt.NDArray[np.integer]],
    *,
    row_tokens: int,
    overlap: int = 0,
    mode: Literal["concat", "whole"] = "concat",
    pad_id: int,
    max_rows: int | None = None,
    report: PackingReport | None = None,
) -> Iterator[Chunk]:
    """Pack a stream of documents into rows of `row_tokens` lazily, in chunks, with memory for one chunk.

    `concat` concatenates the documents and cuts every `row_tokens - overlap` tokens, so that consecutive rows
    share `overlap` tokens: with overlap 1, each next-token target is in exactly one row. `whole` packs
    documents best-fit in decreasing order within a window, and cuts only documents that are longer than a
    row.

    Args:
        documents: token ids, one array per document, including the tokens that begin and end it.
        max_rows: stop reading once this many rows are made.
        report: filled while the rows are consumed.

    Yields:
        ids (n, row_tokens) int32 and segment ids (n, row_tokens): 1, 2, 3.. within each row, 0 on padding.

    Raises:
        ValueError: if rows are too short or too long, or the overlap leaves no room.

    Source: best-fit packing as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3.
    """
    if not 1 <= row_tokens < 2**16:
        raise ValueError(f"row_tokens={row_tokens}; expected 1 to {2**16 - 1}")
    if not 0 <= overlap < row_tokens:
        raise ValueError(f"overlap={overlap}; expected 0 to row_tokens - 1 = {row_tokens - 1}")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows}; expected at least 1")
    report = PackingReport() if report is None else report
    cut = _concat if mode == "concat" else _whole
    chunks = cut(_count_documents(documents, report), row_tokens, overlap, pad_id)
    return _count_rows(chunks, max_rows, report)


def _count_documents(
    documents: Iterable[npt.NDArray[np.integer]], report: PackingReport
) -> Iterator[npt.NDArray[np.integer]]:
    for document in documents:
        report.documents += 1
        report.tokens += len(document)
        if len(document):
            yield document


def _count_rows(
    chunks: Iterator[_CountedChunk], max_rows: int | None, report: PackingReport
) -> Iterator[Chunk]:
    """Yield chunks up to `max_rows`, and update the report."""
    try:
        with closing(chunks):  # type: ignore[type-var]
            for all_ids, all_segments, all_shared in chunks:
                room = len(all_ids) if max_rows is None else min(len(all_ids), max_rows - report.rows)
                ids, segments, shared = all_ids[:room], all_segments[:room], all_shared[:room]
                filled = int(np.count_nonzero(segments))
                report.rows += len(ids)
                report.kept += filled - int(shared.sum())
                report.padding += ids.size - filled
                yield ids, segments
                if report.rows == max_rows:
                    return
    finally:
        report.dropped = report.tokens - report.kept


def _chunk_rows(row_tokens: int) -> int:
    return max(MIN_CHUNK_ROWS, CHUNK_TOKENS // row_tokens)


def _concat(
    documents: Iterator[npt.NDArray[np.integer]], row_tokens: int, overlap: int, pad_id: int
) -> Iterator[_CountedChunk]:
    """Yield rows cut from the concatenated documents; the last row is padded."""
    chunk_tokens = _chunk_rows(row_tokens) * row_tokens
    ids, owners = np.empty(0, np.int32), np.empty(0, np.int64)
    waiting: list[npt.NDArray[np.integer]] = []
    held, n_documents, first = 0, 0, True
    for document in documents:
        waiting.append(document)
        held += len(document)
        if held < chunk_tokens:
            continue
        ids, owners = _join(ids, owners, waiting, n_documents)
        n_documents += len(waiting)
        waiting = []
        for chunk in _windows(ids, owners, row_tokens, overlap):
            yield _share(chunk, overlap, first)
            first = False
        done = _n_windows(len(ids), row_tokens, overlap) * (row_tokens - overlap)
        ids, owners = ids[done:].copy(), owners[done:].copy()
        held = len(ids)
    ids, owners = _join(ids, owners, waiting, n_documents)
    for chunk in _windows(ids, owners, row_tokens, overlap):
        yield _share(chunk, overlap, first)
        first = False
    done = _n_windows(len(ids), row_tokens, overlap) * (row_tokens - overlap)
    if len(ids) - done > (0 if first else overlap):
        yield _share(_padded_row(ids[done:], owners[done:], row_tokens, pad_id), overlap, first)


def _join(
    ids: Ids, owners: npt.NDArray[np.int64], waiting: list[npt.NDArray[np.integer]], n_documents: int
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Append documents to the remaining tokens; `owners` has the document number of each token."""
    lengths = [len(document) for document in waiting]
    numbers = np.repeat(np.arange(n_documents, n_documents + len(waiting)), lengths)
    return np.concatenate([ids, *waiting]).astype(np.int32, copy=False), np.concatenate([owners, numbers])


def _n_windows(n_tokens: int, row_tokens: int, overlap: int) -> int:
    return 0 if n_tokens < row_tokens else (n_tokens - row_tokens) // (row_tokens - overlap) + 1


def _windows(ids: Ids, owners: npt.NDArray[np.int64], row_tokens: int, overlap: int) -> Iterator[Chunk]:
    """Yield all full rows, in chunks."""
    n_rows = _n_windows(len(ids), row_tokens, overlap)
    if not n_rows:
        return
    stride, step = row_tokens - overlap, _chunk_rows(row_tokens)
    id_rows = np.lib.stride_tricks.sliding_window_view(ids, row_tokens)[::stride]
    owner_rows = np.lib.stride_tricks.sliding_window_view(owners, row_tokens)[::stride]
    for start in range(0, n_rows, step):
        owner = owner_rows[start : start + step]
        segments = (owner - owner[:, :1] + 1).astype(np.uint16)
        yield np.ascontiguousarray(id_rows[start : start + step]), segments


def _share(chunk: Chunk, overlap: int, first: bool) -> _CountedChunk:
    shared = np.full(len(chunk[0]), overlap, np.int64)
    shared[0] = 0 if first else overlap
    return *chunk, shared


def _padded_row(ids: Ids, owners: npt.NDArray[np.int64], row_tokens: int, pad_id: int) -> Chunk:
    row = np.full((1, row_tokens), pad_id, np.int32)
    segments = np.zeros((1, row_tokens), np.uint16)
    row[0, : len(ids)] = ids
    segments[0, : len(ids)] = owners - owners[0] + 1
    return row, segments


def _whole(
    documents: Iterator[npt.NDArray[np.integer]], row_tokens: int, overlap: int, pad_id: int
) -> Iterator[_CountedChunk]:
    """Yield rows of whole documents, packed best-fit within a window of about one chunk."""
    window = _chunk_rows(row_tokens) * row_tokens
    pieces: list[npt.NDArray[np.integer]] = []
    shared: list[int] = []
    held = 0
    for document in documents:
        for start in range(0, max(1, len(document) - overlap), row_tokens - overlap):
            pieces.append(document[start : start + row_tokens])
            shared.append(overlap if start else 0)
            held += len(pieces[-1])
            if held >= window:
                yield _assemble(pieces, shared, row_tokens, pad_id)
                pieces, shared, held = [], [], 0
    if pieces:
        yield _assemble(pieces, shared, row_tokens, pad_id)


def _best_fit(lengths: list[int], row_tokens: int) -> npt.NDArray[np.int64]:
    """Return the row of each piece: longest first, each in the row that it fills best.

    Bit s of `spaces` is set if there is an open row with exactly s free tokens, so that the best row is found
    with one shift and the lowest set bit.
    """
    rows = np.empty(len(lengths), np.int64)
    by_space: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    spaces, n_rows = 0, 0
    for piece in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        need = lengths[piece]
        fitting = spaces >> need
        if fitting:
            space = need + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, row = row_tokens, n_rows
            n_rows += 1
        rows[piece] = row
        if space > need:
            by_space[space - need].append(row)
            spaces |= 1 << (space - need)
    return rows


def _assemble(
    pieces: list[npt.NDArray[np.integer]], shared: list[int], row_tokens: int, pad_id: int
) -> _CountedChunk:
    """Arrange the pieces: rows in the order of their last piece, pieces within a row in order of arrival."""
    lengths = np.array([len(piece) for piece in pieces])
    rows = _best_fit(lengths.tolist(), row_tokens)
    n_rows = int(rows.max()) + 1
    last_piece = np.zeros(n_rows, np.int64)
    np.maximum.at(last_piece, rows, np.arange(len(pieces)))
    # The rest of a cut document comes after its full rows, so that a limit on rows keeps the tokens they
    # share.
    place = np.empty(n_rows, np.int64)
    place[np.argsort(last_piece)] = np.arange(n_rows)
    rows = place[rows]

    order = np.argsort(rows, kind="stable")
    rows, lengths = rows[order], lengths[order]
    first_of_row = np.searchsorted(rows, np.arange(n_rows))
    starts = np.cumsum(lengths) - lengths
    offsets = starts - starts[first_of_row][rows]
    numbers = np.arange(len(rows)) - first_of_row[rows] + 1
    target = np.repeat(rows * row_tokens + offsets - starts, lengths) + np.arange(int(lengths.sum()))

    ids = np.full(n_rows * row_tokens, pad_id, np.int32)
    segments = np.zeros(n_rows * row_tokens, np.uint16)
    ids[target] = np.concatenate([pieces[i] for i in order.tolist()])
    segments[target] = np.repeat(numbers, lengths)
    repeated = np.bincount(rows, weights=np.asarray(shared)[order], minlength=n_rows).astype(np.int64)
    return ids.reshape(n_rows, row_tokens), segments.reshape(n_rows, row_tokens), repeated

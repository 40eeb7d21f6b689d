from collections.abc import Iterator
from itertools import count, islice, pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.packing import CHUNK_TOKENS, PackingReport, pack

PAD = 0
Mode = Literal["concat", "whole"]


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose every token is different, so that a token tells where it came from."""
    ends = np.cumsum([1, *lengths])
    return [np.arange(a, b, dtype=np.int32) for a, b in pairwise(ends)]


def packed(documents: list[np.ndarray], **options: object) -> tuple[np.ndarray, np.ndarray, PackingReport]:
    report = PackingReport()
    chunks = list(pack(documents, pad_id=PAD, report=report, **options))  # type: ignore[arg-type]
    if not chunks:
        return np.empty((0, 1), np.int32), np.empty((0, 1), np.uint16), report
    return np.concatenate([ids for ids, _ in chunks]), np.concatenate([seg for _, seg in chunks]), report


def slow_concat(
    documents: list[np.ndarray], row_tokens: int, overlap: int
) -> list[tuple[list[int], list[int]]]:
    """The obvious way: one long list of (token, document), cut by a loop."""
    stream = [(int(token), number) for number, document in enumerate(documents) for token in document]
    rows, start = [], 0
    while start == 0 or start + overlap < len(stream):
        part = stream[start : start + row_tokens]
        if not part:
            break
        names: list[int] = []
        for _, number in part:
            if number not in names:
                names.append(number)
        missing = row_tokens - len(part)
        ids = [token for token, _ in part] + [PAD] * missing
        rows.append((ids, [names.index(number) + 1 for _, number in part] + [0] * missing))
        start += row_tokens - overlap
    return rows


lengths = st.lists(st.integers(0, 40), max_size=30)
row_shape = st.integers(2, 24).flatmap(lambda row: st.tuples(st.just(row), st.integers(0, row - 1)))


@given(lengths, row_shape)
def test_concat_rows_equal_those_of_the_obvious_loop(lengths: list[int], shape: tuple[int, int]) -> None:
    documents = numbered(lengths)
    ids, segments, _ = packed(documents, row_tokens=shape[0], overlap=shape[1], mode="concat")
    expected = slow_concat(documents, *shape)
    assert [(a, b) for a, b in zip(ids.tolist(), segments.tolist(), strict=True)] == expected


@given(lengths, st.integers(2, 24), st.sampled_from(["concat", "whole"]))
def test_with_overlap_one_each_target_is_predicted_exactly_once(
    lengths: list[int], row_tokens: int, mode: Mode
) -> None:
    documents = numbered(lengths)
    ids, segments, _ = packed(documents, row_tokens=row_tokens, overlap=1, mode=mode)
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    pairs = sorted(zip(ids[:, :-1][inside].tolist(), ids[:, 1:][inside].tolist(), strict=True))
    assert pairs == [(int(a), int(b)) for d in documents for a, b in pairwise(d)]


@given(lengths, row_shape, st.sampled_from(["concat", "whole"]))
def test_the_documents_can_be_put_together_again_from_the_rows(
    lengths: list[int], shape: tuple[int, int], mode: Mode
) -> None:
    documents = numbered(lengths)
    ids, segments, report = packed(documents, row_tokens=shape[0], overlap=shape[1], mode=mode)
    found = np.unique(ids[segments > 0])
    assert np.array_equal(found, np.concatenate([np.empty(0, np.int32), *documents]))
    assert (ids[segments == 0] == PAD).all()
    owner = np.concatenate([np.empty(0, int), *(np.full(len(d), i) for i, d in enumerate(documents))])
    for row, segment in zip(ids, segments, strict=True):
        for name in range(1, segment.max() + 1):
            piece = row[segment == name]
            assert (np.diff(piece) == 1).all()
            assert len(set(owner[piece - 1])) == 1
    assert (report.documents, report.tokens) == (len(documents), sum(lengths))
    assert (report.kept, report.dropped) == (report.tokens, 0)
    assert report.padding == int((segments == 0).sum())


@given(lengths, st.integers(2, 24))
def test_whole_mode_cuts_only_documents_longer_than_a_row(lengths: list[int], row_tokens: int) -> None:
    documents = numbered(lengths)
    ids, segments, _ = packed(documents, row_tokens=row_tokens, mode="whole")
    where = {int(t): (r, int(s)) for r in range(len(ids)) for t, s in zip(ids[r], segments[r], strict=True)}
    for document in documents:
        if 0 < len(document) <= row_tokens:
            assert len({where[int(token)] for token in document}) == 1


def test_whole_mode_puts_each_document_where_it_fits_best() -> None:
    # Into the emptier row instead, the 4 would leave no place for the 2.
    ids, _, report = packed(numbered([6, 5, 4, 3, 2]), row_tokens=10, mode="whole")
    assert (len(ids), report.padding) == (2, 0)


def test_whole_mode_wastes_little_on_short_documents() -> None:
    rng = np.random.default_rng(0)
    documents = numbered(rng.integers(60, 201, 20_000).tolist())
    ids, _, report = packed(documents, row_tokens=256, mode="whole")
    assert report.padding / ids.size < 0.02


@given(lengths, row_shape, st.sampled_from(["concat", "whole"]), st.integers(1, 6))
def test_a_limit_on_rows_keeps_the_count_of_tokens_true(
    lengths: list[int], shape: tuple[int, int], mode: Mode, max_rows: int
) -> None:
    documents = numbered(lengths)
    whole, _, _ = packed(documents, row_tokens=shape[0], overlap=shape[1], mode=mode)
    ids, segments, report = packed(
        documents, row_tokens=shape[0], overlap=shape[1], mode=mode, max_rows=max_rows
    )
    assert np.array_equal(ids, whole[:max_rows]) or not len(whole)
    assert report.kept == len(np.unique(ids[segments > 0]))
    assert report.kept + report.dropped == report.tokens == sum(lengths)


@pytest.mark.parametrize("mode", ["concat", "whole"])
def test_an_endless_stream_is_read_no_further_than_needed(mode: Mode) -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        for number in count():
            read += 100
            yield np.full(100, number % 1000 + 1, np.int32)

    report = PackingReport()
    rows = pack(endless(), row_tokens=64, mode=mode, pad_id=PAD, max_rows=10, report=report)
    assert sum(len(ids) for ids, _ in rows) == 10
    assert read <= CHUNK_TOKENS + 100
    assert report.kept + report.dropped == report.tokens == read


@pytest.mark.parametrize("mode", ["concat", "whole"])
def test_closing_the_stream_closes_the_documents_and_completes_the_report(mode: Mode) -> None:
    closed = []

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield np.arange(1, 71, dtype=np.int32)
        finally:
            closed.append(True)

    report = PackingReport()
    rows = pack(endless(), row_tokens=64, mode=mode, pad_id=PAD, report=report)
    list(islice(rows, 2))
    rows.close()  # type: ignore[attr-defined]
    assert closed
    assert report.dropped == report.tokens - report.kept
    assert report.rows > 0


def test_a_document_longer_than_a_chunk_is_cut_like_any_other() -> None:
    document = np.arange(1, CHUNK_TOKENS * 2 + 7, dtype=np.int32)
    for mode in ("concat", "whole"):
        ids, segments, _ = packed([document, document], row_tokens=1000, overlap=1, mode=mode)
        inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        assert np.array_equal(np.bincount(ids[:, 1:][inside])[2:], np.full(len(document) - 1, 2))


def test_no_documents_give_no_rows() -> None:
    assert len(packed([], row_tokens=8)[0]) == 0
    assert len(packed([np.empty(0, np.int32)], row_tokens=8, mode="whole")[0]) == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"row_tokens": 0}, "row_tokens=0"),
        ({"row_tokens": 2**16}, "row_tokens=65536"),
        ({"row_tokens": 4, "overlap": 4}, "overlap=4"),
        ({"row_tokens": 4, "max_rows": 0}, "max_rows=0"),
    ],
)
def test_an_impossible_shape_is_refused_before_anything_is_read(options: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        pack(iter([]), pad_id=PAD, **options)  # type: ignore[arg-type]

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.collate import Batch, RowBatch, collate_causal, collate_denoise, collate_masked
from datamodules.corruption import IGNORE, TokenTable
from datamodules.packing import pack
from datamodules.tokenizer import Bytes

TOKENS = TokenTable.of(Bytes().train([]))
COLLATES = {
    "causal": collate_causal,
    "masked": partial(collate_masked, tokens=TOKENS, seed=0),
    "whole_words": partial(collate_masked, tokens=TOKENS, seed=0, whole_words=True),
    "denoise": partial(collate_denoise, tokens=TOKENS, seed=0),
}


def documents(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.array([TOKENS.bos_id, *rng.choice(TOKENS.ordinary_ids, n), TOKENS.eos_id]) for n in lengths]


def packed(lengths: list[int], row_tokens: int, overlap: int = 0) -> RowBatch:
    chunks = list(pack(documents(lengths), row_tokens=row_tokens, overlap=overlap, pad_id=TOKENS.pad_id))
    ids, segments = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return RowBatch(ids.astype(np.uint16), segments, np.arange(len(ids)))


lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12)


@pytest.mark.slow
@given(lengths, st.integers(2, 20))
def test_causal_labels_are_the_next_tokens_and_cover_each_target_once(
    lengths: list[int], length: int
) -> None:
    batch = collate_causal(packed(lengths, length + 1, overlap=1))
    pairs = []
    for row_ids, row_labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        pairs += [(a, b) for a, b in zip(row_ids, row_labels, strict=True) if b != IGNORE]
    assert pairs == [(int(a), int(b)) for d in documents(lengths) for a, b in itertools.pairwise(d)]


@given(lengths, st.integers(3, 20), st.sampled_from(sorted(COLLATES)))
def test_every_tensor_is_of_the_shape_and_kind_that_models_take(
    lengths: list[int], length: int, name: str
) -> None:
    batch = COLLATES[name](packed(lengths, length))
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    for prefix in ("", "decoder_"):
        keys = [f"{prefix}{key}_ids" for key in ("input", "position", "segment")]
        assert len({batch[key].shape for key in keys if key in batch}) <= 1
    last = batch.get("decoder_input_ids", batch["input_ids"])
    assert batch["labels"].shape == last.shape
    flat = torch.nonzero(batch["labels"].reshape(-1) != IGNORE).squeeze(1)
    assert torch.equal(batch["label_index"], flat)


@given(lengths, st.integers(3, 20), st.sampled_from(sorted(COLLATES)))
def test_positions_restart_at_each_document(lengths: list[int], length: int, name: str) -> None:
    rows = packed(lengths, length)
    batch = COLLATES[name](rows)
    for prefix in ("", "decoder_") if name == "denoise" else ("",):
        positions = batch[f"{prefix}position_ids"]
        segments = batch.get(f"{prefix}segment_ids", torch.ones_like(positions))
        for row_positions, row_segments in zip(positions.tolist(), segments.tolist(), strict=True):
            for number in set(row_segments):
                here = [p for p, s in zip(row_positions, row_segments, strict=True) if s == number]
                assert here == list(range(len(here)))


@pytest.mark.parametrize("name", sorted(COLLATES))
def test_segment_ids_are_left_out_only_where_no_row_has_a_second_document_or_padding(name: str) -> None:
    one = RowBatch(np.full((2, 9), TOKENS.ordinary_ids[5]), np.ones((2, 9), np.uint16), np.arange(2))
    two = RowBatch(one.ids, np.array([[1] * 9, [1] * 5 + [2] * 4]), one.keys)
    padding = RowBatch(one.ids, np.array([[1] * 9, [1] * 5 + [0] * 4]), one.keys)
    if name != "denoise":  # its widths are rounded up, so there is padding nearly always
        assert not [key for key in COLLATES[name](one) if "segment" in key]
    for rows in (two, padding):
        found = [key for key in COLLATES[name](rows) if "segment" in key]
        assert found == (["segment_ids", "decoder_segment_ids"] if name == "denoise" else ["segment_ids"])


def widened(rows: RowBatch, n_columns: int) -> RowBatch:
    wide = ((0, 0), (0, n_columns))
    return RowBatch(
        np.pad(rows.ids, wide, constant_values=TOKENS.pad_id), np.pad(rows.segment_ids, wide), rows.keys
    )


def content(batch: Batch) -> dict[str, list[list[int]]]:
    """What a batch says, without its padding."""
    out = {}
    for prefix in ("", "decoder_"):
        if f"{prefix}input_ids" not in batch:
            continue
        inside = batch.get(f"{prefix}segment_ids", torch.ones_like(batch[f"{prefix}input_ids"])) > 0
        for key in ("input_ids", "position_ids"):
            tensor = batch[f"{prefix}{key}"]
            out[prefix + key] = [row[keep].tolist() for row, keep in zip(tensor, inside, strict=True)]
    out["labels"] = [row[row != IGNORE].tolist() for row in batch["labels"]]
    return out


@given(lengths, st.integers(3, 20), st.sampled_from(sorted(COLLATES)))
def test_padding_changes_nothing(lengths: list[int], length: int, name: str) -> None:
    rows = packed(lengths, length)
    # The last token of a causal row is a label only; padding behind it makes it an input without a label.
    rows = widened(rows, 1) if name == "causal" else rows
    assert content(COLLATES[name](widened(rows, 7))) == content(COLLATES[name](rows))


@given(lengths, st.integers(3, 20))
def test_the_decoder_reads_its_target_moved_right_after_the_beginning_token(
    lengths: list[int], length: int
) -> None:
    batch = COLLATES["denoise"](packed(lengths, length))
    inside = batch.get("decoder_segment_ids", torch.ones_like(batch["labels"]))
    for row in range(len(inside)):
        for number in set(inside[row].tolist()) - {0}:
            inputs = batch["decoder_input_ids"][row][inside[row] == number].tolist()
            labels = batch["labels"][row][inside[row] == number].tolist()
            assert inputs == [TOKENS.bos_id, *labels[:-1]]
            assert labels[-1] == TOKENS.eos_id
    assert (batch["decoder_input_ids"][inside == 0] == TOKENS.pad_id).all()


@pytest.mark.parametrize("name", sorted(COLLATES))
def test_the_rows_given_are_left_as_they_are(name: str) -> None:
    rows = packed([5, 9, 30], 16)
    before = rows.ids.copy()
    rows.ids.setflags(write=False)
    rows.segment_ids.setflags(write=False)
    COLLATES[name](rows)["input_ids"].add_(1)
    assert np.array_equal(rows.ids, before)

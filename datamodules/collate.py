"""Packed rows to the tensors of a batch, one function an objective."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from datamodules.corruption import IGNORE, TokenTable, mask_tokens, span_denoise

Batch = dict[str, torch.Tensor]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows as they were packed: ids and segment ids (B, L), and the sample keys (B,) that seed corruption."""

    ids: npt.NDArray[np.integer]
    segment_ids: npt.NDArray[np.integer]
    keys: Ints


def collate_causal(rows: RowBatch) -> Batch:
    """Next-token prediction: rows of T + 1 tokens become inputs and labels (B, T).

    A label is -100 where the next token opens another document or is padding.
    """
    segments = rows.segment_ids[:, :-1].astype(np.int64)
    following = rows.segment_ids[:, 1:]
    labels = np.where((following == segments) & (following > 0), rows.ids[:, 1:].astype(np.int64), IGNORE)
    batch = _sequence("", rows.ids[:, :-1].astype(np.int64), segments, keep_segments=_several(segments))
    return batch | _labels(labels)


def collate_masked(
    rows: RowBatch, *, tokens: TokenTable, seed: int, rate: float = 0.15, whole_words: bool = False
) -> Batch:
    """Masked language modelling: inputs (B, T) with hidden tokens, labels at these alone."""
    segments = rows.segment_ids.astype(np.int64)
    maskable = (segments > 0) & ~tokens.special[rows.ids]
    inputs, labels = mask_tokens(
        rows.ids,
        maskable=maskable,
        keys=rows.keys,
        seed=seed,
        tokens=tokens,
        rate=rate,
        whole_words=whole_words,
    )
    return _sequence("", inputs, segments, keep_segments=_several(segments)) | _labels(labels)


def collate_denoise(
    rows: RowBatch, *, tokens: TokenTable, seed: int, rate: float = 0.15, mean_span_tokens: float = 3.0
) -> Batch:
    """Span denoising for an encoder-decoder: the source (B, S), and the decoder's inputs and labels (B, T).

    Both are as wide as the longest of the batch. The decoder's input is its target moved right by one within
    each document, after the beginning token.
    """
    made = span_denoise(
        rows.ids,
        rows.segment_ids,
        keys=rows.keys,
        seed=seed,
        tokens=tokens,
        rate=rate,
        mean_span_tokens=mean_span_tokens,
    )
    inside = made.target_segments > 0
    inputs = np.full_like(made.target, tokens.start_id)
    inputs[:, 1:] = np.where(
        made.target_segments[:, 1:] == made.target_segments[:, :-1], made.target[:, :-1], tokens.start_id
    )
    inputs[~inside] = tokens.pad_id
    keep = _several(made.source_segments) or _several(made.target_segments)
    return (
        _sequence("", made.source, made.source_segments, keep_segments=keep)
        | _sequence("decoder_", inputs, made.target_segments, keep_segments=keep)
        | _labels(np.where(inside, made.target, IGNORE))
    )


def _several(segments: Ints) -> bool:
    """Whether a row holds a second document or padding, so that attention must be told."""
    return bool((segments != 1).any())


def _sequence(prefix: str, ids: Ints, segments: Ints, *, keep_segments: bool) -> Batch:
    batch = {
        f"{prefix}input_ids": torch.from_numpy(ids),
        f"{prefix}position_ids": torch.from_numpy(_positions(segments)),
    }
    if keep_segments:
        batch[f"{prefix}segment_ids"] = torch.from_numpy(segments)
    return batch


def _positions(segments: Ints) -> Ints:
    """Positions (B, T) that count from 0 in each document."""
    columns = np.arange(segments.shape[1])
    opens = np.ones(segments.shape, bool)
    opens[:, 1:] = segments[:, 1:] != segments[:, :-1]
    result: Ints = columns - np.maximum.accumulate(np.where(opens, columns, 0), axis=1)
    return result


def _labels(labels: Ints) -> Batch:
    """The labels, and where they are in the flattened batch: found here, where no device must wait."""
    return {
        "labels": torch.from_numpy(labels),
        "label_index": torch.from_numpy(np.flatnonzero(labels.reshape(-1) != IGNORE)),
    }

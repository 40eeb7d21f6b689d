"""Convert packed rows to the tensors of a batch, with one function for each objective."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from datamodules.corruption import IGNORE, TokenTable, mask_tokens, span_denoise

Batch = dict[str, torch.Tensor]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Packed rows: ids and segment ids (B, L), and the sample keys (B,) that seed corruption."""

    ids: npt.NDArray[np.integer]
    segment_ids: npt.NDArray[np.integer]
    keys: Ints


def collate_causal(rows: RowBatch) -> Batch:
    """Make a batch for next-token prediction: rows of T + 1 tokens become inputs and labels (B, T).

    A label is -100 where the next token begins another document or is padding.
    """
    segments = rows.segment_ids[:, :-1].astype(np.int64)
    following = rows.segment_ids[:, 1:]
    labels = np.where((following == segments) & (following > 0), rows.ids[:, 1:].astype(np.int64), IGNORE)
    batch = _sequence("", rows.ids[:, :-1].astype(np.int64), segments, keep_segments=_several(segments))
    return batch | _labels(labels)


def collate_masked(
    rows: RowBatch, *, tokens: TokenTable, seed: int, rate: float = 0.15, whole_words: bool = False
) -> Batch:
    """Make a batch for masked language modelling: inputs and labels (B, T), with labels at masked tokens."""
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
    """Make a batch for span denoising: the source (B, S), and the decoder's inputs and labels (B, T).

    S and T are the longest of the batch. The decoder's input is its target shifted right by one within each
    document, after the start token.
    """
    noised = span_denoise(
        rows.ids,
        rows.segment_ids,
        keys=rows.keys,
        seed=seed,
        tokens=tokens,
        rate=rate,
        mean_span_tokens=mean_span_tokens,
    )
    inside = noised.target_segments > 0
    inputs = np.full_like(noised.target, tokens.start_id)
    inputs[:, 1:] = np.where(
        noised.target_segments[:, 1:] == noised.target_segments[:, :-1],
        noised.target[:, :-1],
        tokens.start_id,
    )
    inputs[~inside] = tokens.pad_id
    keep = _several(noised.source_segments) or _several(noised.target_segments)
    return (
        _sequence("", noised.source, noised.source_segments, keep_segments=keep)
        | _sequence("decoder_", inputs, noised.target_segments, keep_segments=keep)
        | _labels(np.where(inside, noised.target, IGNORE))
    )


def _several(segments: Ints) -> bool:
    """Return whether a row contains a second document or padding, so that attention needs segment ids."""
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
    """Return positions (B, T), counted from 0 in each document."""
    columns = np.arange(segments.shape[1])
    opens = np.ones(segments.shape, bool)
    opens[:, 1:] = segments[:, 1:] != segments[:, :-1]
    result: Ints = columns - np.maximum.accumulate(np.where(opens, columns, 0), axis=1)
    return result


def _labels(labels: Ints) -> Batch:
    """Return the labels, and their indices in the flattened batch; computed here, no device has to wait."""
    return {
        "labels": torch.from_numpy(labels),
        "label_index": torch.from_numpy(np.flatnonzero(labels.reshape(-1) != IGNORE)),
    }

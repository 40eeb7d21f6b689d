"""Mask tokens and spans of a whole batch in NumPy; the corruption of a row depends only on (seed, key).

Random numbers are hashes of (seed, key, position), not draws from a generator. A row is therefore corrupted
in the same way in any batch, without a Python loop over rows.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

IGNORE = -100
# Scripts without spaces have no word starts; longer runs are cut so that a masked word leaves context.
MAX_WORD_TOKENS = 16
WIDTH_MULTIPLE = 16

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

_CHOICE, _FATE, _REPLACEMENT, _LENGTH, _PLACE = range(5)


class Vocabulary(Protocol):
    """The interface of a tokenizer that corruption needs."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, counted from 0."""
        ...

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        ...

    @property
    def bos_id(self) -> int:
        """The id at the beginning of a document."""
        ...

    @property
    def start_id(self) -> int:
        """The id from which the decoder of an encoder-decoder starts."""
        ...

    @property
    def eos_id(self) -> int:
        """The id at the end of a document."""
        ...

    @property
    def mask_id(self) -> int:
        """The id that replaces a masked token."""
        ...

    def has(self, role: str, /) -> bool:
        """Return whether there is a token with this role, such as `mask`."""
        ...

    @property
    def special_ids(self) -> list[int]:
        """All ids that are not text; they are never masked and never drawn."""
        ...

    @property
    def sentinel_ids(self) -> list[int]:
        """The ids that replace dropped spans, in order."""
        ...

    @property
    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Whether each id (V,) begins a word."""
        ...


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The facts about a vocabulary as arrays, which are cheap to send to a worker process."""

    pad_id: int
    bos_id: int
    start_id: int
    eos_id: int
    mask_id: int
    special: Bools = field(repr=False)
    ordinary_ids: Ints = field(repr=False)
    sentinel_ids: Ints = field(repr=False)
    word_starts: Bools = field(repr=False)

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "TokenTable":
        """Collect the facts from a tokenizer."""
        special = np.zeros(vocabulary.vocab_size, bool)
        special[list(vocabulary.special_ids)] = True
        return cls(
            pad_id=vocabulary.pad_id,
            bos_id=vocabulary.bos_id,
            start_id=vocabulary.start_id,
            eos_id=vocabulary.eos_id,
            mask_id=vocabulary.mask_id if vocabulary.has("mask") else -1,  # tasks that mask check for it
            special=special,
            ordinary_ids=np.flatnonzero(~special),
            sentinel_ids=np.asarray(vocabulary.sentinel_ids, np.int64),
            word_starts=np.asarray(vocabulary.word_starts, bool),
        )


def _mix(x: Hashes) -> Hashes:
    """Mix the bits of each number.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 15 (mix64variant13).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(seed: int, stream: int, keys: Ints, positions: Ints) -> Hashes:
    """Return a hash for each (key, position); keys and positions broadcast."""
    start = np.array([(seed * 0x9E3779B97F4A7C15 + stream + 1) % 2**64], np.uint64)
    rows = _mix(_mix(start) + keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return _mix(rows + positions.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03))


def _uniform(hashes: Hashes) -> npt.NDArray[np.float64]:
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _order(groups: Ints, hashes: Hashes) -> Ints:
    """Return the order that sorts by group and shuffles each group (40 random bits, ties by position)."""
    return np.argsort(groups.astype(np.uint64) << np.uint64(40) | hashes >> np.uint64(24), kind="stable")


def _pick(groups: Ints, hashes: Hashes, counts: Ints) -> Bools:
    """Choose `counts[g]` items of each group g at random; `groups` (M,) must be sorted."""
    order = _order(groups, hashes)
    first = np.searchsorted(groups, np.arange(len(counts)))
    picked = np.zeros(len(groups), bool)
    picked[order] = np.arange(len(groups)) - first[groups] < counts[groups]
    return picked


def mask_tokens(
    ids: npt.NDArray[np.integer],
    *,
    maskable: Bools,
    keys: Ints,
    seed: int,
    tokens: TokenTable,
    rate: float = 0.15,
    whole_words: bool = False,
) -> tuple[Ints, Ints]:
    """Mask tokens for masked language modelling; return inputs and labels (B, T); other labels are -100.

    Of the n maskable tokens of a row, max(1, round(rate * n)) are chosen; 80 % of these are replaced by the
    mask token and 10 % by a random ordinary token, and 10 % are kept. With `whole_words`, all tokens of
    chosen words are masked, the same number on average.

    Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1; whole words as in its later release.
    """
    budgets = np.rint(rate * maskable.sum(axis=1)).astype(np.int64)
    budgets = np.where(maskable.any(axis=1), np.maximum(budgets, 1), 0)
    rows, columns = np.nonzero(maskable)
    hashes = _hash(seed, _CHOICE, keys[rows], columns)
    if whole_words:
        begins = tokens.word_starts[ids[rows, columns]]
        picked = _pick_words(rows, columns, begins, hashes, budgets)
    else:
        picked = _pick(rows, hashes, budgets)
    rows, columns = rows[picked], columns[picked]

    inputs = ids.astype(np.int64)
    labels = np.full(ids.shape, IGNORE, np.int64)
    chosen = inputs[rows, columns]
    labels[rows, columns] = chosen
    fate = _uniform(_hash(seed, _FATE, keys[rows], columns))
    draw = _hash(seed, _REPLACEMENT, keys[rows], columns) % np.uint64(len(tokens.ordinary_ids))
    other = tokens.ordinary_ids[draw.astype(np.int64)]
    inputs[rows, columns] = np.where(fate < 0.8, tokens.mask_id, np.where(fate < 0.9, other, chosen))
    return inputs, labels


def _pick_words(rows: Ints, columns: Ints, begins: Bools, hashes: Hashes, budgets: Ints) -> Bools:
    """Choose whole words in random order until the budget of each row is used up.

    A word that would exceed the budget is chosen with the probability that makes the mean exact.
    """
    if not len(rows):
        return np.zeros(0, bool)
    begins = begins.copy()
    begins[0] = True
    begins[1:] |= (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1)
    run_start = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    begins |= (np.arange(len(begins)) - run_start) % np.minimum(MAX_WORD_TOKENS, budgets[rows]) == 0
    word = np.cumsum(begins) - 1
    sizes = np.bincount(word)
    word_rows, word_hashes = rows[begins], hashes[begins]

    order = _order(word_rows, word_hashes)
    taken_before = np.cumsum(sizes[order]) - sizes[order]
    row_start = np.searchsorted(word_rows, word_rows)
    room = budgets[word_rows] - (taken_before - taken_before[row_start])
    coin = _uniform(_mix(word_hashes[order]))
    chosen = np.zeros(len(order), bool)
    chosen[order] = coin * sizes[order] < room
    picked: Bools = chosen[word]
    return picked


@dataclass(frozen=True, eq=False)
class Denoising:
    """Source rows (B, S) and target rows (B, T), as narrow as possible; segment ids are 0 on padding."""

    source: Ints
    source_segments: Ints
    target: Ints
    target_segments: Ints


def noise_mask(
    maskable: Bools,
    segment_ids: Ints,
    *,
    keys: Ints,
    seed: int,
    rate: float,
    mean_span_tokens: float,
) -> Bools:
    """Choose the tokens (B, L) to drop: spans that are not adjacent, drawn for each document separately.

    Of the n maskable tokens of a document, max(1, round(rate * n)) are dropped, in max(1, round(n_dropped /
    mean_span_tokens)) spans. Lengths and positions are uniform over all possibilities: each span is placed in
    a different gap between the kept tokens.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", sections 3.1.4 and 3.3.4.
    """
    rows, columns = np.nonzero(maskable)
    if not len(rows):
        return np.zeros_like(maskable)
    segment = segment_ids[rows, columns]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (segment[1:] != segment[:-1])
    first = np.flatnonzero(new)
    n_tokens = np.diff(np.append(first, len(rows)))
    n_noise = np.maximum(1, np.rint(rate * n_tokens).astype(np.int64)).clip(max=n_tokens)
    n_kept = n_tokens - n_noise
    n_spans = np.maximum(1, np.rint(n_noise / mean_span_tokens).astype(np.int64))
    n_spans = np.minimum(n_spans, n_kept + 1)
    document_keys, document_columns = keys[rows[first]], columns[first]

    def hashes(groups: Ints, items: Ints, stream: int) -> Hashes:
        return _hash(seed, stream, document_keys[groups], document_columns[groups] + items)

    # Whether a new span begins at each dropped token: always at the first one, and at chosen others.
    noise_of, noise_item = _items(n_noise)
    inner = noise_item > 0
    begins = ~inner
    begins[inner] = _pick(noise_of[inner], hashes(noise_of[inner], noise_item[inner], _LENGTH), n_spans - 1)
    span = np.cumsum(begins) - 1
    # The gap of each span; the gaps are before, between and after the kept tokens.
    gap_of, gap_item = _items(n_kept + 1)
    gaps = gap_item[_pick(gap_of, hashes(gap_of, gap_item, _PLACE), n_spans)]
    place = first[noise_of] + gaps[span] + noise_item
    noise = np.zeros_like(maskable)
    noise[rows[place], columns[place]] = True
    return noise


def _items(counts: Ints) -> tuple[Ints, Ints]:
    """Return the group of each item, and its number within the group, for groups of `counts` items."""
    groups = np.repeat(np.arange(len(counts)), counts)
    return groups, np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)


def span_denoise(
    ids: npt.NDArray[np.integer],
    segment_ids: npt.NDArray[np.integer],
    *,
    keys: Ints,
    seed: int,
    tokens: TokenTable,
    rate: float = 0.15,
    mean_span_tokens: float = 3.0,
) -> Denoising:
    """Replace spans of each document by sentinels; the target contains the spans.

    The source of a document is its text with each dropped span replaced by a sentinel. Sentinels are counted
    from the first one in every document, and wrap around after the last one. The target consists of each
    sentinel followed by its span, one more sentinel, and the end token. Special tokens are never dropped.
    Merging the target into the source, in order, restores the document.

    Source: Raffel et al. 2020, section 3.1.4 and figure 2.
    """
    ids, segments = ids.astype(np.int64), segment_ids.astype(np.int64)
    maskable = (segments > 0) & ~tokens.special[ids]
    noise = noise_mask(
        maskable,
        segments,
        keys=keys,
        seed=seed,
        rate=rate,
        mean_span_tokens=mean_span_tokens,
    )
    begins = noise.copy()
    begins[:, 1:] &= ~noise[:, :-1] | (segments[:, 1:] != segments[:, :-1])
    number = _number_within(begins, segments)
    n_sentinels = len(tokens.sentinel_ids)
    sentinels = tokens.sentinel_ids[number % n_sentinels]

    in_source = (segments > 0) & (~noise | begins)
    source = _left_aligned(np.where(begins, sentinels, ids), segments, in_source, tokens)
    last = segments > 0
    last[:, :-1] &= segments[:, 1:] != segments[:, :-1]
    last_sentinels = tokens.sentinel_ids[(number + 1) % n_sentinels]
    # Each token of the row has four slots in the target, of which most are left out.
    slots = np.stack([sentinels, ids, last_sentinels, np.full_like(ids, tokens.eos_id)], axis=-1)
    kept = np.stack([begins, noise, last, last], axis=-1)
    flat = (len(ids), -1)
    target = _left_aligned(slots.reshape(flat), np.repeat(segments, 4, axis=1), kept.reshape(flat), tokens)
    return Denoising(*source, *target)


def _number_within(begins: Bools, segments: Ints) -> Ints:
    """Return, for each token, the number of spans of its document that began up to it, minus one."""
    count = np.cumsum(begins, axis=1)
    first = np.ones_like(begins)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    before: Ints = np.maximum.accumulate(np.where(first, count - begins, 0), axis=1)
    return count - before - 1


def _left_aligned(values: Ints, segments: Ints, kept: Bools, tokens: TokenTable) -> tuple[Ints, Ints]:
    """Move the kept values of each row to the left, and fill the rest with padding.

    The width is rounded up to a multiple of WIDTH_MULTIPLE, since on a CPU matrix products cache a kernel for
    each shape.
    """
    longest = max(1, int(kept.sum(axis=1).max(initial=0)))
    width = -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    rows, columns = np.nonzero(kept)
    place = np.cumsum(kept, axis=1)[rows, columns] - 1
    out = np.full((len(values), width), tokens.pad_id, np.int64)
    out_segments = np.zeros((len(values), width), np.int64)
    out[rows, place] = values[rows, columns]
    out_segments[rows, place] = segments[rows, columns]
    return out, out_segments

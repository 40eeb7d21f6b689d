from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corruption import (
    IGNORE,
    MAX_WORD_TOKENS,
    WIDTH_MULTIPLE,
    Denoising,
    TokenTable,
    mask_tokens,
    noise_mask,
    span_denoise,
)
from datamodules.tokenizer import Bytes

TOKENIZER = Bytes().train([])
TOKENS = TokenTable.of(TOKENIZER)
FIRST_ORDINARY = int(TOKENS.ordinary_ids[0])


def some_rows(n_rows: int, row_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several documents, each <bos> text <eos>, and some padding at the end."""
    rng = np.random.default_rng(seed)
    ids = np.full((n_rows, row_tokens), TOKENS.pad_id)
    segments = np.zeros((n_rows, row_tokens), np.uint16)
    for row in range(n_rows):
        start = 0
        for number in range(1, row_tokens):
            length = int(rng.integers(0, row_tokens)) + 2
            if start + length > row_tokens:
                break
            text = rng.choice(TOKENS.ordinary_ids, length - 2)
            ids[row, start : start + length] = [TOKENS.bos_id, *text, TOKENS.eos_id]
            segments[row, start : start + length] = number
            start += length
    return ids, segments


def maskable_of(ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
    return (segments > 0) & ~TOKENS.special[ids]


def masked(
    ids: np.ndarray, segments: np.ndarray, *, keys: np.ndarray | None = None, seed: int = 0, **options: object
) -> tuple[np.ndarray, np.ndarray]:
    keys = np.arange(len(ids)) if keys is None else keys
    options = {"tokens": TOKENS, **options}
    return mask_tokens(ids, maskable=maskable_of(ids, segments), keys=keys, seed=seed, **options)  # type: ignore[arg-type]


def denoised(
    ids: np.ndarray, segments: np.ndarray, keys: np.ndarray | None = None, **options: float
) -> Denoising:
    keys = np.arange(len(ids)) if keys is None else keys
    return span_denoise(ids, segments, keys=keys, seed=0, tokens=TOKENS, **options)


shapes = st.tuples(st.integers(1, 6), st.integers(2, 80), st.integers(0, 100))


@given(shapes, st.booleans(), st.sampled_from([0.1, 0.15, 0.5]))
def test_only_ordinary_tokens_are_masked_and_labels_hold_the_originals(
    shape: tuple[int, int, int], whole_words: bool, rate: float
) -> None:
    ids, segments = some_rows(*shape)
    inputs, labels = masked(ids, segments, rate=rate, whole_words=whole_words)
    chosen = labels != IGNORE
    assert not (chosen & ~maskable_of(ids, segments)).any()
    assert np.array_equal(inputs[~chosen], ids[~chosen])
    assert np.array_equal(labels[chosen], ids[chosen])
    new = inputs[chosen & (inputs != ids)]
    assert ((new == TOKENS.mask_id) | ~TOKENS.special[new]).all()


@given(shapes, st.booleans())
def test_each_row_with_text_has_at_least_one_masked_token(shape: tuple[int, int, int], words: bool) -> None:
    ids, segments = some_rows(*shape)
    _, labels = masked(ids, segments, rate=0.01, whole_words=words)
    assert np.array_equal((labels != IGNORE).any(axis=1), maskable_of(ids, segments).any(axis=1))


@given(shapes)
def test_the_number_of_masked_tokens_is_the_rate_rounded(shape: tuple[int, int, int]) -> None:
    ids, segments = some_rows(*shape)
    _, labels = masked(ids, segments)
    for row, maskable in zip(labels, maskable_of(ids, segments), strict=True):
        n = int(maskable.sum())
        assert (row != IGNORE).sum() == (max(1, round(0.15 * n)) if n else 0)


def test_of_the_chosen_tokens_80_10_and_10_percent_are_masked_replaced_and_kept() -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(TOKENS.ordinary_ids, (400, 500))
    inputs, labels = masked(ids, np.ones_like(ids))
    chosen = labels != IGNORE
    hidden = inputs[chosen] == TOKENS.mask_id
    same = inputs[chosen] == labels[chosen]
    n = chosen.sum()
    assert abs(hidden.mean() - 0.8) < 4 * np.sqrt(0.16 / n)
    assert abs(same.mean() - 0.1 - 0.1 / 256) < 4 * np.sqrt(0.09 / n)
    replaced = inputs[chosen][~hidden & ~same]
    counts = np.bincount(replaced - FIRST_ORDINARY, minlength=256)
    assert counts.sum() / 256 > 8
    assert counts.max() < 4 * counts.mean()


@pytest.mark.parametrize("whole_words", [False, True])
def test_every_token_is_masked_equally_often(whole_words: bool) -> None:
    rng = np.random.default_rng(0)
    text = rng.choice(TOKENS.ordinary_ids, 200)
    ids = np.broadcast_to(text, (4000, 200))
    _, labels = masked(ids, np.ones_like(ids), whole_words=whole_words)
    rates = (labels != IGNORE).mean(axis=0)
    assert abs(rates.mean() - 0.15) < 0.005
    if not whole_words:
        assert np.abs(rates - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 4000)


def test_whole_words_are_masked_whole_and_the_rate_is_kept() -> None:
    text = "a lantern stood by the old harbour wall while Mia waited for her brother " * 4
    ids = np.broadcast_to(np.asarray(TOKENIZER.encode(text), np.int64), (500, len(text))).copy()
    _, labels = masked(ids, np.ones_like(ids), whole_words=True)
    words = np.cumsum(TOKENS.word_starts[ids[0]])
    for row in labels != IGNORE:
        for word in np.unique(words[row]):
            assert row[words == word].all()
    assert abs((labels != IGNORE).mean() - 0.15) < 0.005


def test_text_without_spaces_is_not_masked_as_one_word() -> None:
    ids = np.full((50, 400), FIRST_ORDINARY)
    tokens = replace(TOKENS, word_starts=np.zeros_like(TOKENS.word_starts))
    _, labels = masked(ids, np.ones_like(ids), whole_words=True, tokens=tokens)
    for row in labels != IGNORE:
        assert 0 < row.sum() <= round(0.15 * 400) + MAX_WORD_TOKENS


def test_a_row_is_corrupted_alike_in_any_batch_and_otherwise_for_another_seed_or_key() -> None:
    ids, segments = some_rows(9, 60)
    keys = np.arange(9) * 1_000_003
    order = np.array([4, 0, 8])
    for whole_words in (False, True):
        inputs, labels = masked(ids, segments, keys=keys, whole_words=whole_words)
        again = masked(ids[order], segments[order], keys=keys[order], whole_words=whole_words)
        assert np.array_equal(again[0], inputs[order])
        assert np.array_equal(again[1], labels[order])
        assert not np.array_equal(
            masked(ids, segments, keys=keys, seed=1, whole_words=whole_words)[1], labels
        )
        assert not np.array_equal(masked(ids, segments, keys=keys + 9, whole_words=whole_words)[1], labels)


def test_masking_is_pinned_so_that_a_resumed_run_of_tomorrow_agrees() -> None:
    ids = np.arange(FIRST_ORDINARY, FIRST_ORDINARY + 40)[None]
    inputs, labels = masked(ids, np.ones_like(ids), keys=np.array([12345]), seed=7)
    columns = np.flatnonzero(labels[0] != IGNORE)
    assert columns.tolist() == PINNED_COLUMNS
    assert (inputs[0, columns] == TOKENS.mask_id).tolist() == PINNED_HIDDEN


PINNED_COLUMNS = [10, 20, 25, 30, 33, 38]
PINNED_HIDDEN = [True, False, True, True, True, True]


def merged(made: Denoising, row: int) -> list[list[int]]:
    """The documents of a row, each span of the target put back where its sentinel stands in the source."""
    sentinels = set(TOKENS.sentinel_ids.tolist())
    documents = []
    for number in range(1, int(made.source_segments[row].max()) + 1):
        source = made.source[row][made.source_segments[row] == number].tolist()
        target = made.target[row][made.target_segments[row] == number].tolist()
        spans: list[tuple[int, list[int]]] = []
        for token in target[:-1]:
            if token in sentinels:
                spans.append((token, []))
            else:
                spans[-1][1].append(token)
        assert target[-1] == TOKENS.eos_id
        used = [token for token in source if token in sentinels]
        in_order = list(islice(cycle(TOKENS.sentinel_ids.tolist()), len(used) + 1))
        assert used == in_order[:-1]
        assert [sentinel for sentinel, _ in spans] == in_order
        assert spans[-1][1] == []
        hidden = (span for _, span in spans)
        documents.append([t for token in source for t in (next(hidden) if token in sentinels else [token])])
    return documents


@given(shapes, st.sampled_from([0.15, 0.5]), st.sampled_from([1.0, 3.0, 10.0]))
def test_merging_the_target_into_the_source_gives_the_documents(
    shape: tuple[int, int, int], rate: float, mean: float
) -> None:
    ids, segments = some_rows(*shape)
    made = denoised(ids, segments, rate=rate, mean_span_tokens=mean)
    for row in range(len(ids)):
        numbers = range(1, int(segments[row].max()) + 1)
        assert merged(made, row) == [ids[row][segments[row] == number].tolist() for number in numbers]


@given(shapes)
def test_each_document_drops_15_percent_in_spans_of_three_on_average(shape: tuple[int, int, int]) -> None:
    ids, segments = some_rows(*shape)
    maskable = maskable_of(ids, segments)
    noise = noise_mask(
        maskable,
        segments.astype(np.int64),
        keys=np.arange(len(ids)),
        seed=0,
        rate=0.15,
        mean_span_tokens=3.0,
    )
    assert not (noise & ~maskable).any()
    for row in range(len(ids)):
        for number in range(1, int(segments[row].max()) + 1):
            here = noise[row][segments[row] == number]
            n = int(maskable[row][segments[row] == number].sum())
            n_noise = max(1, round(0.15 * n)) if n else 0
            assert here.sum() == n_noise
            n_spans = (np.diff(here.astype(int), prepend=0) == 1).sum()
            assert n_spans == (min(max(1, round(n_noise / 3)), n - n_noise + 1) if n else 0)


def test_every_token_is_dropped_about_equally_often() -> None:
    ids = np.broadcast_to(np.arange(FIRST_ORDINARY, FIRST_ORDINARY + 100), (4000, 100))
    options = {"keys": np.arange(4000), "seed": 0, "rate": 0.15, "mean_span_tokens": 3.0}
    rates = noise_mask(ids > 0, np.ones_like(ids), **options).mean(axis=0)  # type: ignore[arg-type]
    # A token near an end has fewer spans that could cover it.
    assert np.abs(rates[3:-3] - 0.15).max() < 0.03
    assert rates.min() > 0.04


@pytest.mark.parametrize("rate", [0.15, 0.5])
@pytest.mark.parametrize("n_tokens", [186, 512, 2000])
def test_spans_of_a_document_have_the_length_that_is_asked_for_however_long_it_is(
    n_tokens: int, rate: float
) -> None:
    ids = np.random.default_rng(0).choice(TOKENS.ordinary_ids, (1, n_tokens))
    made = denoised(ids, np.ones_like(ids), rate=rate, mean_span_tokens=3.0)
    assert merged(made, 0) == ids.tolist()
    n_noise = (~TOKENS.special[made.target]).sum()
    n_spans = np.isin(made.source, TOKENS.sentinel_ids).sum()
    assert n_noise == round(rate * n_tokens)
    assert n_noise / n_spans == pytest.approx(3.0, rel=0.05)


def test_sources_and_targets_are_as_narrow_as_the_longest_of_the_batch_in_steps_of_sixteen() -> None:
    ids, segments = some_rows(5, 64)
    made = denoised(ids, segments)
    for side in (made.source_segments, made.target_segments):
        assert side.shape[1] % WIDTH_MULTIPLE == 0
        assert (side[:, -WIDTH_MULTIPLE:] > 0).any()
    assert (made.source[made.source_segments == 0] == TOKENS.pad_id).all()


def test_spans_do_not_depend_on_what_stands_beside_a_row() -> None:
    ids, segments = some_rows(9, 60)
    keys = np.arange(9) * 1_000_003
    whole = denoised(ids, segments, keys)
    for row in range(9):
        alone = denoised(ids[[row]], segments[[row]], keys[[row]])
        width = alone.target.shape[1]
        assert np.array_equal(alone.target[0], whole.target[row, :width])
        assert np.array_equal(alone.source[0], whole.source[row, : alone.source.shape[1]])
    assert not np.array_equal(denoised(ids, segments, keys + 9).target, whole.target)


def test_spans_of_neighbouring_documents_stay_apart() -> None:
    ids = np.arange(FIRST_ORDINARY, FIRST_ORDINARY + 12)[None]
    segments = np.arange(1, 13)[None]
    assert merged(denoised(ids, segments), 0) == [[token] for token in ids[0].tolist()]


def test_a_batch_of_empty_documents_has_nothing_to_corrupt() -> None:
    ids = np.array([[TOKENS.bos_id, TOKENS.eos_id, TOKENS.pad_id]])
    segments = np.array([[1, 1, 0]])
    for whole_words in (False, True):
        inputs, labels = masked(ids, segments, whole_words=whole_words)
        assert np.array_equal(inputs, ids)
        assert (labels == IGNORE).all()
    assert merged(denoised(ids, segments), 0) == [[TOKENS.bos_id, TOKENS.eos_id]]

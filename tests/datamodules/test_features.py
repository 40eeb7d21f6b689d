"""Features: flat storage gives back what went in, and padding is what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.features import Feature, Features, pad, padded_width

sequences = st.lists(st.integers(-100, 60_000), max_size=9)
examples = st.lists(st.tuples(sequences, sequences), min_size=1, max_size=12)


def features_of(values: list[tuple[list[int], list[int]]]) -> list[Feature]:
    return [
        {"input_ids": np.array(ids, np.int64), "labels": np.array(labels, np.int64)} for ids, labels in values
    ]


def plain(features: list[Feature]) -> list[dict[str, list[int]]]:
    return [{name: values.tolist() for name, values in feature.items()} for feature in features]


@given(examples, st.data())
def test_features_come_back_as_they_went_in(
    values: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    given_ = features_of(values)
    kept = Features.of(iter(given_))
    assert len(kept) == len(given_)
    indices = data.draw(st.lists(st.integers(0, len(given_) - 1), max_size=8))
    taken = kept.take(np.array(indices, np.int64))
    assert plain(taken) == plain([given_[i] for i in indices])
    assert all(values.dtype == np.int64 for feature in taken for values in feature.values())
    assert kept.lengths.tolist() == [[len(ids), len(labels)] for ids, labels in values]


def test_features_of_empty_texts_are_kept() -> None:
    kept = Features.of([{"input_ids": []}, {"input_ids": [3]}, {"input_ids": []}])
    assert [feature["input_ids"].tolist() for feature in kept.take([0, 1, 2])] == [[], [3], []]


def test_a_taken_feature_is_a_copy() -> None:
    kept = Features.of([{"input_ids": [1, 2]}])
    kept.take([0])[0]["input_ids"][:] = 9
    assert kept.take([0])[0]["input_ids"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([], "no features"),
        ([{"labels": [1]}], "input_ids"),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": [2]}], "feature 1 has"),
        ([{"input_ids": [1]}, {"input_ids": [[1]]}], "input_ids of feature 1"),
        ([{"input_ids": [1.5]}], "integers"),
        ([{"input_ids": [2**31]}], "32 bits"),
    ],
)
def test_features_that_cannot_be_stored_are_refused(features: list[Feature], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Features.of(features)


def test_offsets_that_do_not_fit_are_refused() -> None:
    ids = np.array([1, 2], np.int32)
    for offsets in ([0, 1], [1, 2], [0, 3, 2], []):
        with pytest.raises(ValueError, match="offsets of input_ids"):
            Features({"input_ids": ids}, {"input_ids": np.array(offsets, np.int64)})


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=40), min_size=1, max_size=6),
    st.sampled_from(["right", "left"]),
)
def test_padding_adds_the_value_at_one_side_and_nothing_else(rows: list[list[int]], side: str) -> None:
    padded = pad([np.array(row, np.int64) for row in rows], value=-1, side=side)
    assert padded.dtype == np.int64
    assert padded.shape == (len(rows), padded_width(max(map(len, rows))))
    for row, made in zip(rows, padded.tolist(), strict=True):
        filling = [-1] * (padded.shape[1] - len(row))
        assert made == (row + filling if side == "right" else filling + row)


@pytest.mark.parametrize(
    ("longest", "width"),
    [(0, 1), (1, 1), (31, 31), (32, 32), (33, 34), (64, 64), (65, 68), (300, 304), (1025, 1088)],
)
def test_a_width_is_the_longest_row_rounded_up_a_little(longest: int, width: int) -> None:
    assert padded_width(longest) == width


def test_widths_are_few_and_less_than_a_sixteenth_is_added() -> None:
    widths = [padded_width(longest) for longest in range(1, 2049)]
    assert all(longest <= width < longest * 17 / 16 for longest, width in enumerate(widths, start=1))
    assert len(set(widths)) == 32 + 6 * 16


def test_impossible_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="side='middle'"):
        pad([np.zeros(3, np.int64)], value=0, side="middle")
    with pytest.raises(ValueError, match="0 arrays"):
        pad([], value=0)

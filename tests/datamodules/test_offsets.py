"""Offsets: every token knows which characters it stands for, whatever the kind and the script."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import TokenizerError
from datamodules.tokenizer import Tokenizer
from tests.datamodules.test_tokenizer import HARD, TEXTS, trained

Span = tuple[int, int]


def slow_spans(tokenizer: Tokenizer, text: str) -> list[Span]:
    """The obvious way: walk over the bytes, and look up which character each belongs to."""
    owner = [place for place, character in enumerate(text) for _ in character.encode()]
    spans, at = [], 0
    for token in tokenizer.encode(text):
        size = len(tokenizer._pieces[token])
        spans.append((owner[at], owner[at + size - 1] + 1))
        at += size
    return spans


def check(tokenizer: Tokenizer, text: str) -> list[Span]:
    ids, starts, ends = tokenizer.encode_with_offsets(text)
    assert (ids.dtype, starts.dtype, ends.dtype) == (np.int32, np.int32, np.int32)
    assert ids.tolist() == tokenizer.encode(text).tolist()
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    assert spans == slow_spans(tokenizer, text)
    return spans


@settings(max_examples=200)
@given(text=st.text(st.characters(codec="utf-8"), max_size=80))
def test_the_spans_of_any_text_follow_each_other_and_cover_it(text: str) -> None:
    for tokenizer in trained():
        spans = check(tokenizer, text)
        assert spans == sorted(spans)
        assert [start for start, _ in spans[:1]] == [0] * bool(text)
        assert all(start <= end_before for (_, end_before), (start, _) in pairwise(spans))
        covered = {place for start, end in spans for place in range(start, end)}
        assert covered == set(range(len(text)))


@pytest.mark.parametrize("text", [*HARD, *TEXTS[:4]])
def test_the_spans_of_hard_texts_are_those_of_their_bytes(text: str) -> None:
    for tokenizer in trained():
        check(tokenizer, text)


@settings(max_examples=60)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_a_span_holds_the_text_of_its_token(text: str) -> None:
    for tokenizer in trained():
        ids, starts, ends = tokenizer.encode_with_offsets(text)
        for token, start, end in zip(ids, starts, ends, strict=True):
            assert tokenizer._pieces[token] in text[start:end].encode()


def test_each_byte_of_a_character_covers_that_character() -> None:
    tokenizer = next(tokenizer for tokenizer in trained() if tokenizer._is_bytes)
    _, starts, ends = tokenizer.encode_with_offsets("a狐😀")
    assert starts.tolist() == [0, 1, 1, 1, 2, 2, 2, 2]
    assert ends.tolist() == [1, 2, 2, 2, 3, 3, 3, 3]


def test_a_text_of_100_000_characters_has_offsets_to_its_end() -> None:
    text = "狐狸和 fox 😀 " * 10_000
    for tokenizer in trained():
        ids, starts, ends = tokenizer.encode_with_offsets(text)
        assert len(ids) == len(starts) == len(ends)
        assert (starts[0], ends[-1]) == (0, len(text))


def test_a_lone_surrogate_is_refused_as_in_encode() -> None:
    with pytest.raises(TokenizerError, match=r"U\+D800"):
        trained()[0].encode_with_offsets("a\ud800")

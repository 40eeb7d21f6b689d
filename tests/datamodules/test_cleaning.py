"""Cleaning: what each option does, that it is pure, and that doing it twice changes nothing."""

import unicodedata
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.cleaning import Cleaner
from datamodules.cleaning.privacy import scrub

ALL = Cleaner(
    "NFKC", lowercase=True, strip_punctuation=True, stop_words="en", deduplicate=True, scrub_pii=True
)
PIECES = st.sampled_from(
    [*("the", "The", "don't", "a.b", " ", "\n", "  ", "e\u0301", "İ", "ﬁ", "Ａ", "ß", "的", "目的", "，"),
     *("a@b.org", "1", "10.0.0.1", "+49 30 1234567", "4111 1111 1111 1111", "-", "'", "[email]", "::1", "@")]
)  # fmt: skip
MIXED = st.lists(PIECES | st.text(st.characters(codec="utf-8"), max_size=4), max_size=15).map("".join)
CLEANERS = st.builds(
    Cleaner,
    normal_form=st.sampled_from(["NFC", "NFKC", None]),
    lowercase=st.booleans(),
    strip_punctuation=st.booleans(),
    stop_words=st.sampled_from(["en", "de", "zh", None]),
    deduplicate=st.booleans(),
    scrub_pii=st.booleans(),
)


def cleaned(cleaner: Cleaner, *texts: str) -> tuple[list[str], dict[str, int]]:
    rows, counts = cleaner.clean(Dataset.from_dict({"text": list(texts)}))
    return [row["text"] for row in rows], counts


@pytest.mark.slow
@settings(max_examples=200)
@given(cleaner=CLEANERS, text=MIXED)
@example(cleaner=Cleaner(strip_punctuation=True, scrub_pii=True), text="4111'1111'1111'1111")
def test_cleaning_twice_is_cleaning_once(cleaner: Cleaner, text: str) -> None:
    once, _ = cleaner.clean_text(text)
    assert cleaner.clean_text(once)[0] == once


@settings(max_examples=30)
@given(cleaner=CLEANERS, texts=st.lists(MIXED, min_size=1, max_size=8))
def test_rows_are_the_same_from_memory_and_from_a_stream_and_clean_rows_stay(
    cleaner: Cleaner, texts: list[str]
) -> None:
    source = [{"text": text, "number": number} for number, text in enumerate(texts)]
    rows, counts = cleaner.clean(Dataset.from_list(source))
    streamed, later_counts = cleaner.clean(source)
    assert list(streamed) == list(streamed) == [dict(row) for row in rows]
    assert later_counts == counts
    again, _ = cleaner.clean(list(rows))
    assert list(again) == list(rows)


def test_by_default_text_in_normal_form_is_left_alone_and_not_copied() -> None:
    rows = Dataset.from_dict({"text": ["A  text, as IT is.\n", "\u00e9"]})
    assert Cleaner().clean(rows) == (rows, {})


def test_normal_forms_are_applied_and_counted() -> None:
    assert cleaned(Cleaner(), "e\u0301", "x") == (["\u00e9", "x"], {"rows_changed": 1})
    assert cleaned(Cleaner("NFKC"), "ﬁ Ａ①")[0] == ["fi A1"]
    assert cleaned(Cleaner(None), "e\u0301") == (["e\u0301"], {})


def test_case_and_punctuation_are_removed() -> None:
    assert cleaned(Cleaner(lowercase=True), "ÄB") == (["äb"], {"rows_changed": 1})
    got, counts = cleaned(Cleaner(strip_punctuation=True), 'Don\'t stop-me: "now", 你好，世界。\n  ok! 1+1=2')
    assert got == ["Dont stop me now 你好 世界\nok 1+1=2"]
    assert counts == {"rows_changed": 1, "punctuation_marks": 9}


def test_stop_words_of_three_languages_are_removed() -> None:
    assert cleaned(Cleaner(stop_words="en"), "The cat and a hat; don't") == (
        ["cat hat; don't"],
        {"rows_changed": 1, "stop_words": 3},
    )
    assert cleaned(Cleaner(stop_words="de"), "Über dem Haus ist der Mond")[0] == ["Haus Mond"]
    assert cleaned(Cleaner(stop_words="zh"), "我们的目的是了解现在的情况")[0] == ["目的了解现在情况"]


def test_rows_that_differ_only_in_case_space_or_form_are_duplicates_and_the_first_stays() -> None:
    got, counts = cleaned(Cleaner(deduplicate=True), "A  b", "a b", "Ａ b\n", "a c")
    assert got == ["A  b", "a c"]
    assert counts == {"rows_duplicate": 2}


def test_rows_left_without_text_are_dropped_and_counted() -> None:
    got, counts = cleaned(Cleaner(stop_words="en"), "the and", "fox", " \n")
    assert got == ["fox"]
    assert counts == {"rows_changed": 1, "stop_words": 2, "rows_empty": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ada.l+x@mail.example.co.uk.", "write to [email]."),
        ("call +49 (0)30 123456-7 or (212) 555-0199", "call [phone] or [phone]"),
        ("212-555-0199, 030/1234567, 13812345678", "[phone], [phone], [phone]"),
        ("from 192.168.0.1:80 and 2001:db8::8a2e:370:7334", "from 192.168.0.1:80 and [ip]"),
        ("from 192.168.0.1, 10.1.1.254.", "from [ip], [ip]."),
        ("card 4111 1111 1111 1111, 5500-0000-0000-0004", "card [card], [card]"),
        ("to DE89 3704 0044 0532 0130 00 or GB82WEST12345698765432", "to [iban] or [iban]"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, expected: str) -> None:
    assert scrub(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1984 there were 10.000.000 people from 1847-1930",
        "pi is 3.14159265358979",
        "at 12:34:56 on 2023-11-01",
        "4111 1111 1111 1112 is no card",
        "DE89 3704 0044 0532 0130 01 is no account",
        "300.1.1.1 is no address, and std::cout neither",
        "the @ sign",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert scrub(text) == (text, {})


def test_finds_are_counted_by_kind() -> None:
    _, counts = cleaned(Cleaner(scrub_pii=True), "a@b.org c@d.org 10.0.0.1", "no more")
    assert counts == {"rows_changed": 1, "email": 2, "ip": 1}


@pytest.mark.parametrize("filler", ["a", "1", "a.", "1 ", "A1", ":", "@", "+1", "x@y."])
def test_scrubbing_takes_linear_time_on_hostile_text(filler: str) -> None:
    assert isinstance(scrub(filler * 50_000)[0], str)


def test_a_stream_of_the_library_is_cleaned_while_it_is_read() -> None:
    stream = IterableDataset.from_generator(lambda: ({"text": text, "n": 1} for text in ("e\u0301", "b")))
    rows, counts = Cleaner().clean(stream)
    assert counts == {}
    assert list(rows) == [{"text": "\u00e9", "n": 1}, {"text": "b", "n": 1}]
    assert counts == {"rows_changed": 1}
    assert len(list(rows)) == 2
    assert counts == {"rows_changed": 1}


def test_everything_at_once_leaves_plain_words() -> None:
    got: Any = cleaned(ALL, "The Fox's mail: fox@wood.org!", "FOXS MAIL [email]")
    assert got == (
        ["foxs mail email"],
        {"rows_changed": 2, "rows_duplicate": 1, "email": 1, "punctuation_marks": 7, "stop_words": 1},
    )
    assert unicodedata.is_normalized("NFKC", got[0][0])

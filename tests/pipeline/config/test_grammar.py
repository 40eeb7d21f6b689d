"""What the user typed: any letters, in quotes or without, and the same words for everything else."""

import pytest

from pipeline.config.grammar import quoted, read_overrides
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("größe", "größe"),
        ("数据.csv", "数据.csv"),
        ("~/数据 2/文.csv", "~/数据 2/文.csv"),
        ("mü\\ x", "mü x"),
        ("C:\\Übung\\", "C:\\Übung\\"),
        ("[größe, böse]", ["größe", "böse"]),
        ("{text:正文, label: 类别}", {"text": "正文", "label": "类别"}),
        ("'größe (1)'", "größe (1)"),
    ],
)
def test_letters_beyond_ascii_need_no_quotes(value: str, means: object) -> None:
    (override,) = read_overrides([f"name={value}"])
    assert override.value() == means


@pytest.mark.parametrize("value", ["a.csv", "[a, b]", "1e-3", "null", "'a b'", "choice(a,b)", "a\\ b"])
def test_a_value_in_ascii_stays_as_it_was_typed(value: str) -> None:
    (override,) = read_overrides([f"name={value}"])
    assert override.input_line == f"name={value}"


@pytest.mark.parametrize("word", ["name=数据(1).csv", "name=it's", "größe=1", "name=a["])
def test_what_cannot_be_read_is_named_without_the_words_of_a_library(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_overrides([word])
    assert str(caught.value).startswith(f"'{word}' cannot be read; expected key=value\nhint: quote")


@pytest.mark.parametrize("text", ["a b", "it's", "50% of ${seed}", "x=y,z", "在", "ends in \\"])
def test_a_quoted_text_arrives_letter_for_letter(text: str) -> None:
    (override,) = read_overrides([f"name={quoted(text)}"])
    assert override.value() == text

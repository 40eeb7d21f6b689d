import pytest

from datamodules.tokenizer import Bytes
from pipeline.explain.words import words_of
from pipeline.tasks.explaining import Place, places_of


def parts(text: str, *tokens: str) -> list[Place | None]:
    """The places of tokens that are put together to the text, between two special ones."""
    places, start = [], 0
    for token in tokens:
        places.append(Place("text", start, start + len(token)))
        start += len(token)
    assert "".join(tokens) == text
    return [None, *places, None]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("Frie", "da", " found", " it", "."), ["Frieda", "found", "it", "."]),
        (("the", " ", "red", " fea", "ther"), ["the", "red", "feather"]),
        (("to be", " or"), ["to be", "or"]),
        (("在河", "边", "。"), ["在河", "边", "。"]),
        (("don", "'", "t"), ["don", "'", "t"]),
    ],
)
def test_the_tokens_of_a_word_are_joined_and_one_that_holds_two_words_joins_these(
    tokens: tuple[str, ...], words: list[str]
) -> None:
    text = "".join(tokens)
    places = parts(text, *tokens)
    found = words_of({"text": text}, places, [100.0, *range(1, len(tokens) + 1), 100.0])
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)
    assert sum(word.attribution for word in found) == sum(range(1, len(tokens) + 1))


def test_bytes_of_one_character_are_one_word_and_columns_are_kept_apart() -> None:
    row = {"question": "wo", "context": "是é"}
    tokenizer = Bytes().train([])
    places: list[Place | None] = []
    for column, text in row.items():
        places += [None, *places_of(column, *tokenizer.encode_with_offsets(text)[1:])]
    found = words_of(row, places, [1.0] * len(places))
    assert [(word.column, word.text, word.attribution) for word in found] == [
        ("question", "wo", 2.0),
        ("context", "是", 3.0),
        ("context", "é", 2.0),
    ]
    assert [(word.first_token, word.last_token) for word in found] == [(1, 2), (4, 6), (7, 8)]

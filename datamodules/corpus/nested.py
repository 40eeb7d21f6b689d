"""Read rows of JSON documents that are a single object: SQuAD's nested format, or rows under the key `data`.

*Source:* Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text"; Rajpurkar et
al. 2018, "Know What You Don't Know" (questions without an answer).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from datamodules.errors import DataError

Placed = tuple[str, Any]
"""The position of a row, and the row."""

_EXPECTED = 'a list of objects, one object per line, or {"data": [{"paragraphs": [...]}]} as in SQuAD'


def rows_of_document(document: Mapping[str, Any], where: str) -> Iterator[Placed]:
    """Yield each question of each paragraph as a row, or each object of the list under `data`.

    An object without such a list is a row itself. `where` is the file.

    Raises:
        DataError: if the document has another format; the error names the position.
    """
    if not isinstance(document.get("data"), list):
        yield where, document
        return
    for number, article in enumerate(document["data"], start=1):
        if not (isinstance(article, Mapping) and "paragraphs" in article):
            yield f"{where}, object {number} of 'data'", article
            continue
        there = f"{where}, article {number}"
        for place, paragraph in enumerate(_list(article, "paragraphs", there), start=1):
            yield from _questions(paragraph, article, f"{there}, paragraph {place}")


def _questions(paragraph: Any, article: Mapping[str, Any], where: str) -> Iterator[Placed]:
    shared = {
        key: paragraph[key] for key in ("context",) if isinstance(paragraph, Mapping) and key in paragraph
    }
    if "title" in article:
        shared["title"] = article["title"]
    for number, question in enumerate(_list(paragraph, "qas", where), start=1):
        there = f"{where}, question {number}"
        if not isinstance(question, Mapping):
            raise DataError(f"{there} is not an object", _EXPECTED, "correct the file")
        row = {**shared, **question}
        if "answers" in question:
            row["answers"] = _answers(question["answers"], there)
        yield there, row


def _answers(answers: Any, where: str) -> dict[str, list[Any]]:
    """Convert a list of objects to an object of lists, as in the rows of the Hub."""
    if not isinstance(answers, list) or not all(isinstance(one, Mapping) for one in answers):
        raise DataError(
            f"{where}: 'answers' is not a list of objects",
            'answers such as {"text": "...", "answer_start": 0}',
            "correct the file",
        )
    return {key: [one.get(key) for one in answers] for key in ("text", "answer_start")}


def _list(holder: Any, key: str, where: str) -> list[Any]:
    value = holder.get(key) if isinstance(holder, Mapping) else None
    if isinstance(value, list):
        return value
    raise DataError(f"{where} has no list '{key}'", _EXPECTED, "convert the file to one of these formats")

"""Clean rows step by step, and count what was done."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from datamodules.cleaning.privacy import scrub
from datamodules.cleaning.stop_words import StopLanguage, without_stop_words
from datamodules.corpus.rows import TEXT, Row, Rows, rows_of, texts

T = TypeVar("T")

_APOSTROPHES = "'\u2019\u02bc"
_ROWS_AT_ONCE = 1000
_SPACES = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" ?\n ?")


@dataclass(frozen=True)
class Cleaner:
    """Cleans the text of rows; other columns are unchanged. Cleaning is idempotent.

    Args:
        normal_form: Unicode normal form; NFKC also folds full-width letters and ligatures.
        lowercase: whether to convert text to lower case.
        strip_punctuation: whether to replace punctuation by spaces, and remove apostrophes.
        stop_words: language whose most frequent function words are removed; for Chinese, which has no spaces,
            by a list of characters and of common words that keep them.
        deduplicate: whether to drop rows that equal an earlier one except for case, spaces and normal form.
        scrub_pii: whether to replace e-mail and IP addresses, and telephone, credit card (Luhn) and bank
            account (IBAN) numbers by `[email]`, `[ip]`, `[phone]`, `[card]` and `[iban]`. Patterns find most,
            not all, of them.
    """

    normal_form: Literal["NFC", "NFKC"] | None = "NFC"
    lowercase: bool = False
    strip_punctuation: bool = False
    stop_words: StopLanguage | None = None
    deduplicate: bool = False
    scrub_pii: bool = False

    def clean(self, rows: Iterable[Row]) -> tuple[Iterable[Row], dict[str, int]]:
        """Clean rows, and count what was done. Rows without any text are dropped.

        For a `datasets.Dataset`, return a `datasets.Dataset` (the same if nothing changes) and final counts.
        For anything else, return rows that are cleaned while they are read; their counts are complete at the
        end of an iteration, and restart with the next.

        The counts above 0 are returned: `rows_changed`, `rows_empty` and `rows_duplicate` (both dropped), and
        numbers of `punctuation_marks`, `stop_words`, `email`, `ip`, `phone`, `card` and `iban`.
        """
        import datasets

        counts: dict[str, int] = {}
        if not isinstance(rows, datasets.Dataset):
            return _CleanedRows(self, rows, counts), counts
        kept = [number for number, _ in self._kept(enumerate(texts(rows)), counts)]
        chosen: Rows = rows if len(kept) == len(rows) else rows.select(kept)
        if counts.get("rows_changed"):
            # The cache of `datasets` is not used: it would not notice changes of this code.
            n_rows = rows_of(chosen, most=_ROWS_AT_ONCE)
            chosen = chosen.map(
                self._cleaned_batch,
                batched=True,
                batch_size=n_rows,
                writer_batch_size=n_rows,
                load_from_cache_file=False,
                desc="Cleaning",
            )
        return chosen, counts

    def clean_text(self, text: str) -> tuple[str, Counter[str]]:
        """Clean one text until no step changes it any more; return it with counts of what was found."""
        counts: Counter[str] = Counter()
        before = None
        while text != before:
            before = text
            text = self._once(text, counts)
        return text, counts

    def _once(self, text: str, counts: Counter[str]) -> str:
        if self.normal_form and not unicodedata.is_normalized(self.normal_form, text):
            text = unicodedata.normalize(self.normal_form, text)
        if self.scrub_pii:
            text, found = scrub(text)
            counts.update(found)
        if self.lowercase:
            text = text.lower()
        if self.strip_punctuation:
            text = _without_punctuation(text, counts)
        if self.stop_words:
            text, n_found = without_stop_words(text, self.stop_words)
            if n_found:
                counts["stop_words"] += n_found
                text = _tidy(text)
        return text

    def _kept(self, rows: Iterable[tuple[T, str]], counts: dict[str, int]) -> Iterator[tuple[T, str]]:
        """Yield each item that is kept with its clean text, and update the counts."""
        counts.clear()
        seen: set[bytes] = set()
        for item, text in rows:
            clean, found = self.clean_text(text)
            if clean != text:
                found["rows_changed"] = 1
            key = _duplicate_key(clean) if self.deduplicate else b""
            stays = bool(clean.strip()) and key not in seen
            if not stays:
                found["rows_duplicate" if clean.strip() else "rows_empty"] = 1
            elif self.deduplicate:
                seen.add(key)
            for name, number in found.items():
                counts[name] = counts.get(name, 0) + number
            if stays:
                yield item, clean

    def _cleaned_batch(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        return {TEXT: [self.clean_text(text)[0] for text in batch[TEXT]]}


class _CleanedRows:
    """Rows that are cleaned while they are iterated."""

    def __init__(self, cleaner: Cleaner, rows: Iterable[Row], counts: dict[str, int]) -> None:
        self._cleaner = cleaner
        self._rows = rows
        self._counts = counts

    def __iter__(self) -> Iterator[Row]:
        pairs = ((row, row[TEXT]) for row in self._rows)
        for row, clean in self._cleaner._kept(pairs, self._counts):
            yield {**row, TEXT: clean}


def _duplicate_key(text: str) -> bytes:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _PunctuationTable(dict[int, str]):
    """A table for `str.translate` that is filled when a character first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_mark = unicodedata.category(character).startswith("P")
        self[code] = "" if character in _APOSTROPHES else " " if is_mark else character
        return self[code]


_PUNCTUATION = _PunctuationTable()


def _without_punctuation(text: str, counts: Counter[str]) -> str:
    plain = text.translate(_PUNCTUATION)
    if plain == text:
        return text
    counts["punctuation_marks"] += sum(_PUNCTUATION[ord(character)] != character for character in text)
    return _tidy(plain)


def _tidy(text: str) -> str:
    """Remove spaces left by removed words; line breaks are kept."""
    return _LINE_ENDS.sub("\n", _SPACES.sub(" ", text)).strip()

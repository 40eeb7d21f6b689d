"""Split text into words, in any script."""

import unicodedata
from collections.abc import Iterable
from typing import Literal

import regex  # type: ignore[import-untyped]

#: Letters of scripts that are written without spaces between words.
#: Source: Unicode Standard Annex 14, classes SA (Thai, Lao, Khmer, Myanmar), AK and AS (Javanese, Balinese).
_UNSPACED = r"[\p{L}&&[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Tibt}\p{lb=SA}\p{lb=AK}\p{lb=AS}]]"
_HAN = regex.compile(r"[\p{L}&&\p{Han}]", regex.V1)
_KANA = regex.compile(r"[\p{L}&&[\p{Hira}\p{Kana}]]", regex.V1)
_LETTERS = regex.compile(r"\p{L}")
_UNSPACED_LETTERS = regex.compile(_UNSPACED, regex.V1)
#: One such letter with its combining marks, or a run of other letters and digits with theirs.
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}]\p{{M}}*)+", regex.V1)
#: Joiners, direction marks and soft hyphens: invisible, and used inconsistently.
_INVISIBLE = regex.compile(r"\p{Cf}")

#: The tokenizers of sacrebleu that need no other package and no download.
BleuTokenizer = Literal["13a", "char", "zh"]
_BY_LANGUAGE: dict[str, BleuTokenizer] = {
    **dict.fromkeys(("zh", "cmn", "lzh", "wuu", "yue"), "zh"),
    **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo"), "char"),
}
#: The share of kana from which a text counts as Japanese; a Chinese text that quotes some has less.
_KANA_SHARE = 0.1


def words_of(text: str) -> list[str]:
    """Split text into lower-case words in NFC without punctuation, or characters if a script has no spaces.

    For ASCII text these are the tokens of rouge_score.
    """
    return _WORD.findall(unicodedata.normalize("NFC", _INVISIBLE.sub("", text.lower())))  # type: ignore[no-any-return]


def has_unspaced(text: str) -> bool:
    """Return whether a text has a letter of a script without spaces."""
    return _UNSPACED_LETTERS.search(text) is not None


def bleu_tokenizer(language: str, texts: Iterable[str]) -> BleuTokenizer:
    """Return the sacrebleu tokenizer for texts, by the code of their language or else by their script.

    `zh` is sacrebleu's tokenizer for Chinese, `char` is used for other scripts without spaces, and `13a`, the
    default, for the rest. The tokenizers for Japanese and Korean need MeCab; Korean has spaces.
    """
    known = _BY_LANGUAGE.get(language.lower().replace("_", "-").partition("-")[0])
    if known is not None:
        return known
    joined = "".join(texts)
    n_letters, n_unspaced, n_han, n_kana = (
        len(kind.findall(joined)) for kind in (_LETTERS, _UNSPACED_LETTERS, _HAN, _KANA)
    )
    if 2 * n_unspaced <= n_letters:
        return "13a"
    return "zh" if 2 * n_han > n_unspaced and n_kana < _KANA_SHARE * n_unspaced else "char"

"""Pre-tokenization: split text into words before the vocabulary is applied, and cut long texts."""

import re
from collections.abc import Iterator

from tokenizers import Regex, pre_tokenizers

_RUN = 64

# GPT-2's pattern with five changes:
# 1. Every Chinese character is a word, as in BERT, since word boundaries are not marked. Otherwise "at the
#    bridge" could become one token, and an answer that is a part of it could not be marked.
# 2. Combining marks stay with their letters (e + accent, Indic vowels), which GPT-2's \p{L}+ separates.
# 3. Every digit is a word, so that numbers are tokenized uniformly and no vocabulary is spent on years.
# 4. Line breaks are separate, so that the first word of a line is not merged with the break before it.
# 5. A word has at most 64 characters, so that no input, not even 100 MB without a space, is one huge word.
# As in GPT-2, a token never joins punctuation to letters: Chinese is cut at its punctuation, and the text
# "<pad>" can never match a special token. No token contains a space after a non-space.
PATTERN = (
    r"'(?i:s|t|re|ve|m|ll|d)(?!\p{L})"
    r"|\p{Han}"
    rf"| ?[\p{{L}}\p{{M}}&&\P{{Han}}]{{1,{_RUN}}}"
    r"| ?\p{N}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]{{1,{_RUN}}}"
    rf"|[\r\n]{{1,{_RUN}}}"
    rf"|\s{{1,{_RUN}}}(?!\S)"
    r"|\s"
)

_LOOKAHEAD = _RUN + 2
_MIN_SLICE = 3 * _LOOKAHEAD  # room for a whole pre-token and the lookahead at its end
_TAIL = 4096
_BORDER = re.compile(r"\S(?=[ \n])")
_SPLIT = pre_tokenizers.Split(Regex(PATTERN), "isolated")


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Build the pre-tokenizer: split by `PATTERN`, then map bytes to printable characters."""
    return pre_tokenizers.Sequence(
        [_SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def slices(text: str, max_characters: int = 1 << 15) -> Iterator[str]:
    """Cut a text where the pattern cuts it anyway, so that its slices encode to the same ids as the whole.

    Without this, encoding a text of 100 MB needs many gigabytes. `max_characters` must be at least 198.
    """
    assert max_characters >= _MIN_SLICE
    start = 0
    while len(text) - start > max_characters:
        end = _border(text, start, start + max_characters)
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _border(text: str, start: int, end: int) -> int:
    """Return the last position before `end` at which a pre-token ends, given that one starts at `start`."""
    matches = [match.end() for match in _BORDER.finditer(text, max(start, end - _TAIL), end)]
    if matches:
        return matches[-1]
    # No space (Chinese, base64): apply the pattern, whose result is certain up to its longest lookahead.
    sure = end - start - _LOOKAHEAD
    starts = [first for _, (first, _) in _SPLIT.pre_tokenize_str(text[start:end]) if first <= sure]
    return start + starts[-1]

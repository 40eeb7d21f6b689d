"""Where words begin and end before any vocabulary is looked at, and where a long text may be cut."""

import re
from collections.abc import Iterator

from tokenizers import Regex, pre_tokenizers

_RUN = 64

# GPT-2's pattern with five changes, each for a reason:
# every Chinese character stands alone, as in BERT's vocabulary, for nothing marks where words end: else "at
# the bridge" becomes one token, and an answer that is a part of it cannot be pointed at;
# marks stay with their letters (a decomposed e + accent, Indic vowels), GPT-2's \p{L}+ tears them off;
# every digit stands alone, so that numbers have one form and no vocabulary is spent on years;
# line ends are their own tokens, so that a line's first word is not glued to the break before it;
# runs are at most 64 characters, so that no input, not even 100 MB without a space, is one huge word.
# As in GPT-2 a token never joins punctuation to letters: Chinese is cut at its punctuation, and the text
# "<pad>" can never be looked up as one piece. No token holds a non-space followed by a space.
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
_MIN_SLICE = 3 * _LOOKAHEAD  # holds one whole pre-token, and what its end depends on
_TAIL = 4096
_BORDER = re.compile(r"\S(?=[ \n])")
_SPLIT = pre_tokenizers.Split(Regex(PATTERN), "isolated")


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Build the pre-tokenizer of every kind: split by `PATTERN`, then bytes as printable characters."""
    return pre_tokenizers.Sequence(
        [_SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def slices(text: str, max_characters: int = 1 << 15) -> Iterator[str]:
    """Cut a text at places where the pattern cuts it anyway, so that the slices encode as the whole does.

    Without this a text of 100 MB needs many gigabytes while it is encoded. `max_characters` >= 198.
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
    """Find the last place before `end` where one pre-token stops, given that one starts at `start`."""
    matches = [match.end() for match in _BORDER.finditer(text, max(start, end - _TAIL), end)]
    if matches:
        return matches[-1]
    # No space in sight (Chinese, base64): ask the pattern, which is sure up to its farthest lookahead.
    sure = end - start - _LOOKAHEAD
    starts = [first for _, (first, _) in _SPLIT.pre_tokenize_str(text[start:end]) if first <= sure]
    return start + starts[-1]

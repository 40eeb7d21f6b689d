"""What the user typed, read by Hydra's own grammar, which knows no letters beyond ASCII outside of quotes."""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from pipeline.errors import ConfigError

#: What Hydra's grammar reads as itself after a backslash.
_ESCAPED = r"\\([\\()\[\]{}:=,\s])"


def read_overrides(words: Sequence[str], *, expected: str = "key=value") -> list[Override]:
    """The words as overrides.

    Raises:
        ConfigError: one is none.
    """
    return [_read(word, expected) for word in words]


def quoted(text: str) -> str:
    """A text as a value that stands for itself, whatever is in it."""
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def _read(word: str, expected: str) -> Override:
    if "=" not in word or word.startswith("="):
        raise ConfigError(f"'{word}' is not an override", expected, "for example trainer.max_steps=500")
    try:
        return OverridesParser.create().parse_override(_with_quotes(word))
    except HydraException as error:
        raise ConfigError(
            f"'{word}' cannot be read", expected, "quote values that hold spaces or brackets"
        ) from error


def _with_quotes(word: str) -> str:
    """The word with quotes around the pieces of its value that Hydra reads with them only: 数据.csv,b.csv."""
    key, _, value = word.partition("=")
    if value.isascii() or any(sign in value for sign in ("'", '"', "${")):
        return word
    between = "[](){},=" + (":" if "{" in value else "")
    inner, outer = rf"(?:{_ESCAPED}|[^{re.escape(between)}])", rf"(?:{_ESCAPED}|[^{re.escape(between)}\s])"
    return f"{key}={re.sub(f'{outer}(?:{inner}*{outer})?', _piece, value)}"


def _piece(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.isascii() else quoted(re.sub(_ESCAPED, r"\1", text))

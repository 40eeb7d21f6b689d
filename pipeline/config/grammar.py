"""Parse overrides with Hydra's grammar, and quote what it cannot read, such as non-ASCII letters."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from pipeline.errors import ConfigError

#: Characters that Hydra's grammar reads literally after a backslash.
_ESCAPED = r"\\([\\()\[\]{}:=,\s])"

#: Text that needs no quotes, and the words of this form that would mean something else without them.
_PLAIN = re.compile(r"[A-Za-z_/][\w./\-]*", re.ASCII)
_CONSTANTS = ("null", "true", "false", "inf", "nan")


def read_overrides(words: Sequence[str], *, expected: str = "key=value") -> list[Override]:
    """Parse words as overrides.

    Raises:
        ConfigError: if a word is not an override.
    """
    return [_read(word, expected) for word in words]


def quoted(text: str) -> str:
    """Quote a text so that Hydra reads it literally, whatever it contains."""
    return QuotedString(text, Quote.single).with_quotes()


def without_interpolation(override: Override) -> str:
    """Return the override for Hydra with `${...}` escaped: only the project's yaml files interpolate."""
    word = str(override.input_line)
    if "${" not in word:
        return word
    key = word.partition("=")[0]
    return f"{key}={typed(_escaped(override.value()))}"


def _escaped(value: Any) -> Any:
    """Escape every text in a value so that OmegaConf reads it literally."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: _escaped(one) for key, one in value.items()}
    return [_escaped(one) for one in value] if isinstance(value, list) else value


def typed(value: Any) -> str:
    """Format a plain value as a user would type it."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _CONSTANTS else quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(typed, value)) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def as_args(words: Sequence[str]) -> str:
    """Format words as the ARGS of a `make` command, within double quotes of a shell."""
    text = shlex.join(words)
    for letter in '\\"`$':
        text = text.replace(letter, f"\\{letter}")
    return f'ARGS="{text}"'


def _read(word: str, expected: str) -> Override:
    if "=" not in word or word.startswith("="):
        raise ConfigError(f"'{word}' is not an override", expected, "for example trainer.max_steps=500")
    try:
        return OverridesParser.create().parse_override(_with_quotes(word))
    except HydraException as error:
        raise ConfigError(
            f"'{word}' cannot be read", expected, "quote values that contain spaces, quotes or brackets"
        ) from error


def _with_quotes(word: str) -> str:
    """Quote the pieces of a value that Hydra cannot read without quotes, as in `数据.csv,b.csv`."""
    key, _, value = word.partition("=")
    if value.isascii() or any(sign in value for sign in ("'", '"', "${")):
        return word
    between = "[](){},=" + (":" if "{" in value else "")
    inner, outer = rf"(?:{_ESCAPED}|[^{re.escape(between)}])", rf"(?:{_ESCAPED}|[^{re.escape(between)}\s])"
    return f"{key}={re.sub(f'{outer}(?:{inner}*{outer})?', _piece, value)}"


def _piece(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.isascii() else quoted(re.sub(_ESCAPED, r"\1", text))

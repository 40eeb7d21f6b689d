"""Redact secrets in what is recorded, and flatten a configuration to parameters."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.tracking.secret_forms import REDACTED, hide, is_secret_key

_MIN_SECRET_CHARS = 6
#: Variables of every shell whose names look like secrets but whose values are folders.
_FOLDERS = ("PWD", "OLDPWD")


class Redactor:
    """Replaces secrets, recognized by key, by format, or as the value of a secret environment variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        secrets = {k: v for k, v in environ.items() if k not in _FOLDERS and is_secret_key(k, v)}
        values = {v for v in secrets.values() if len(v) >= _MIN_SECRET_CHARS}
        longest_first = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(v) for v in longest_first)) if longest_first else None

    def text(self, text: str) -> str:
        """Redact a text: what looks like a secret, and secrets of the environment."""
        text = hide(text)
        return self._known.sub(REDACTED, text) if self._known else text

    def value(self, key: str, value: Any) -> Any:
        """Redact the value of a key, recursively; other values keep their type."""
        if is_secret_key(key, value):
            return REDACTED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(k): self.value(str(k), v) for k, v in value.items()}
        if isinstance(value, Sequence):
            return [self.value(key, item) for item in value]
        return value

    def command(self, argv: Iterable[str]) -> str:
        """Format a command on one line; `key=value` and `--key value` are redacted by their key."""
        shown, secret_follows = [], False
        for argument in argv:
            key, equals, value = argument.partition("=")
            if secret_follows:
                shown.append(REDACTED)
            elif equals:
                shown.append(f"{self.text(key)}={self.value(key.lstrip('-+~'), value)}")
            else:
                shown.append(self.text(argument))
            is_option = argument.startswith("-") and not equals
            secret_follows = is_option and is_secret_key(argument.lstrip("-"), "x")
        return self.text(" ".join(shown))


def flatten(config: Mapping[str, Any], *, max_chars: int = 500) -> dict[str, str]:
    """Flatten a nested configuration to dotted keys and texts; long texts are cut and end with a hash.

    Lists are kept whole, as JSON, since a list is a single value.
    """
    found = _walk(config, "")
    return {_cut(key, max_chars=250): _cut(_as_text(value), max_chars=max_chars) for key, value in found}


def _walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{name}.")
        else:
            yield name, value


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, *, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    mark = f"... sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return text[: max_chars - len(mark)] + mark

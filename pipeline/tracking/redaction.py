"""Keep secrets out of what is recorded, and flatten a configuration into parameters."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

REDACTED = "<redacted>"
#: Keys of this form hold a secret whatever their value is; with a prefix too, as in PGPASSWORD.
_SECRET_KEY = re.compile(
    r"(password|passwd|passphrase|secret|api_?key)s?([_.\-]|$)"
    r"|(^|[_.\-])(pwd|credentials?|(access|private|secret)_?keys?|auth)([_.\-]|$)",
    re.IGNORECASE,
)
#: In capitals, as variables of the environment are called.
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|PASS|PAT|CONNECTION_STRING)$")
#: `token` is also the field's word for a piece of text: only a text under a key that ends so is a secret.
_TOKEN_KEY = re.compile(r"token(s?)$", re.IGNORECASE)
_SPECIAL_TOKEN_KEY = re.compile(
    r"(pad|bos|eos|unk|mask|sep|cls|special|start|end|per)_tokens?$", re.IGNORECASE
)
#: What stands under `max_tokens`, and under `added_tokens`.
_COUNT_OR_MARK = re.compile(r"[\d.,eE+\-]+|null|<.*>|\[.*\]")
#: Where a word begins in camelCase.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[A-Za-z0-9_\-]{16,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[A-Za-z0-9\-]{10,}|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{5,}"
    r"|AIza[\w\-]{35}|(?<=Bearer )[\w\-.=+/]{8,}|(?<=Basic )[A-Za-z0-9+/]{8,}={0,2}"
)
#: A password in a database's address may hold slashes.
_URL_CREDENTIALS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)|(?:(?<=sql://)|(?<=sql\+\w{7}://)|(?<=sql\+\w{8}://))[^\s@'\"]+(?=@)"
)
#: `key=value` of an address, a command or a connection string, and `"key": "value"` of JSON inside a text.
_ASSIGNED = re.compile(r"([\w.\-]+)(=|[\"']\s*:\s*[\"'])([^\s&;,'\"<>]+)")
_SIGNATURE_KEY = re.compile(r"^(sig|(x-\w+-)?(signature|credential|security-token))$", re.IGNORECASE)
_MIN_SECRET_CHARS = 6


#: Variables of every shell that look like secrets and are folders.
_FOLDERS = ("PWD", "OLDPWD")


class Redactor:
    """Replaces secrets: by key, by the look of a value, and by the values of secret environment variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        secrets = {k: v for k, v in environ.items() if k not in _FOLDERS and is_secret_key(k, v)}
        values = {v for v in secrets.values() if len(v) >= _MIN_SECRET_CHARS}
        longest_first = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(v) for v in longest_first)) if longest_first else None

    def text(self, text: str) -> str:
        """The text without credentials in addresses, known forms of keys, and secrets of the environment."""
        text = _SECRET_VALUE.sub(REDACTED, public_address(text))
        return self._known.sub(REDACTED, text) if self._known else text

    def value(self, key: str, value: Any) -> Any:
        """The value at a key, redacted all the way down; other values keep their type."""
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
        """A command line on one line; `key=value` and `--key value` are redacted by their key."""
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
        return " ".join(shown)


def public_address(text: str) -> str:
    """Addresses without user, password, and secret or signing parts of their query."""
    return _ASSIGNED.sub(_hide_assigned, _URL_CREDENTIALS.sub(REDACTED, text))


def without_credentials(text: str) -> str:
    """Addresses as they are shown and compared: no user, no password, no secret in the query."""
    return public_address(text).replace(f"{REDACTED}@", "")


def _hide_assigned(found: re.Match[str]) -> str:
    key, between, value = found.groups()
    secret = is_secret_key(key, value) or _SIGNATURE_KEY.search(key)
    return f"{key}{between}{REDACTED}" if secret else found[0]


def is_secret_key(key: str, value: Any) -> bool:
    """Whether a key of this name, with such a value, holds a secret."""
    if value is None or isinstance(value, bool) or value == "":
        return False
    if _SECRET_VARIABLE.search(key):
        return True
    key = _HUMP.sub("_", key)
    if _SECRET_KEY.search(key):
        return True
    token = _TOKEN_KEY.search(key)
    if token is None or not isinstance(value, str) or _SPECIAL_TOKEN_KEY.search(key):
        return False
    return not (token[1] and _COUNT_OR_MARK.fullmatch(value))


def flatten(config: Mapping[str, Any], *, max_chars: int = 500) -> dict[str, str]:
    """A nested configuration as one level of dotted keys and texts; a long text is cut and ends in its hash.

    Lists stay whole, as JSON: they are one choice of the user's, not several.
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

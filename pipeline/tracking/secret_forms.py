"""Recognize secrets by the name of their key, by their format, and by their position in a URL or a text.

Hashes, paths and tokens of a tokenizer are not secrets, so there is no rule for text that merely looks
random.
"""

import re
from typing import Any

REDACTED = "<redacted>"

#: Word boundaries in camelCase.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: Keys whose value is always a secret; a prefix is allowed, as in PGPASSWORD.
_SECRET_KEY = re.compile(
    r"(password|passwd|passphrase|passcode|secret|credential|api_?key)s?(_|$)"
    r"|(^|_)(pwd|auth|authorization|shared_?access_?signature)(_|$)"
    r"|(^|_)(access|account|application|client|consumer|deploy|encryption|license|master|private|secret|service"
    r"|session|shared|signing|ssh|storage|subscription)_?keys?(_|$)"
)
#: The same for environment variables, which are in capitals.
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|PASS|PAT|CONNECTION_STRING)$")
#: Suffixes of keys with several meanings: only a text value is a secret.
_AMBIGUOUS_KEY = re.compile(r"token(s?)$|(?:cookie|webhook)(s?)$|(?:^|_)pass()$")
_SPECIAL_TOKEN_KEY = re.compile(r"(pad|bos|eos|unk|mask|sep|cls|special|start|end|first|last|per)_tokens?$")
_SIGNATURE_KEY = re.compile(r"^(sig|(x_\w+_)?(signature|credential|security_token))$")
#: Values of keys such as `max_tokens` and `added_tokens`.
_COUNT_OR_MARK = re.compile(r"[\d.,eE+\-]+|null|<.*>|\[.*\]")
_SHORT_NUMBER = re.compile(r"\d{1,3}")

_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\Z)"
    r"|\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w\-]{16,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[abeprs]-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{10,}|AIza[\w\-]{35}"
    r"|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{5,}|gl[a-z]{2,6}-[\w\-]{20,}|npm_[A-Za-z0-9]{20,}|pypi-[\w\-]{16,}"
    r"|[prs]k_(?:live|test)_\w{8,}|whsec_\w{16,}|SG\.[\w\-]{16,}\.[\w\-]{16,}|ya29\.[\w\-]{20,}"
    r"|GOCSPX-[\w\-]{20,}|dckr_pat_[\w\-]{20,}|dop_v1_\w{32,}|shp(?:at|ca|pa|ss)_\w{20,}|hvs\.[\w\-]{20,}"
    r"|nvapi-[\w\-]{20,}|gsk_\w{20,}|tskey-[\w\-]{12,}|\d{8,10}:AA[\w\-]{30,})"
    r"|(?<=[Bb]earer )[\w\-.=+/~]{8,}|(?<=[Bb]asic )[A-Za-z0-9+/]{8,}={0,2}",
    re.DOTALL,
)
#: The secret part of a webhook's URL, after its host or its `hook` folder.
_WEBHOOK = re.compile(
    r"(https?://(?:hooks\.slack\.com|[\w.\-]+(?::\d+)?(?:/[\w.\-]+)*?/(?:web)?hooks?(?:b2)?(?:/send)?)[/?])"
    r"(?=[^\s\"'<>]*[\w\-]{16})[^\s\"'<>]+"
)
_ADDRESS = re.compile(r"(\b[A-Za-z][\w+.\-]*://)((?:(?!://)[^\s\"])+)")
#: Schemes of databases and brokers, in whose URLs a password may contain slashes.
_DATABASE = re.compile(r"(sql|maria|mongo|redis|amqp|oracle|mqtt|kafka|clickhouse|ldap|smtp)")

_VALUE = re.compile(
    r"(?P<quote>\\?[\"'])(?:(?!(?P=quote))(?:\\.|[^\n]))*(?P=quote)"
    r"|(?!\\?[\"'])[^\s&;\",]+(?:,(?![\"']?[\w.\-]+[=:])[^\s&;\",]+)*"
)
#: `key=value`, `key: value` and `"key": "value"`, as in a URL, a command, a file or a connection string.
_ASSIGNED = re.compile(r"((?<![\w.\-])[\w.\-]+)(\\?[\"']?[ \t]*(?:=>?|:)[ \t]*)")
_OPTION = re.compile(r"((?<!\S)--?[\w\-]+)([ \t]+)(?!-)")
_ASSIGNED_ENCODED = re.compile(
    r"((?:pwd|password|passwd|secret|token|(?:access|account|api)_?key)%3D)(?:(?!%3B)[^\s&;\"'])+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"((?:set-)?cookie\\?[\"']?:[ \t]*\\?[\"']?(?=\S*=)|authorization\\?[\"']?:[ \t]*\\?[\"']?)[^\n\"']+",
    re.IGNORECASE,
)
_USER = re.compile(r"((?<!\S)(?:-u|--user|--proxy-user)[ =])[^\s:]+:\S+")


def is_secret_key(key: str, value: Any) -> bool:
    """Return whether the value of this key is a secret."""
    if value is None or isinstance(value, bool) or value == "":
        return False
    if _SECRET_VARIABLE.search(key):
        return True
    plain = _plain(key)
    if _SECRET_KEY.search(plain):
        return True
    found = _AMBIGUOUS_KEY.search(plain)
    if found is None or not isinstance(value, str) or _SPECIAL_TOKEN_KEY.search(plain):
        return False
    if found[3] is not None:
        return not _SHORT_NUMBER.fullmatch(value)
    return not (found[1] and _COUNT_OR_MARK.fullmatch(value))


def hide(text: str) -> str:
    """Replace secrets in a text that are recognized by their format or position."""
    text = _SECRET_VALUE.sub(REDACTED, _WEBHOOK.sub(rf"\1{REDACTED}", text))
    text = public_address(text)
    text = _USER.sub(rf"\1{REDACTED}", _HEADER.sub(rf"\1{REDACTED}", text))
    return _hide_values(_OPTION, text)


def public_address(text: str) -> str:
    """Replace the user, the password, and secrets in the query of URLs in a text."""
    text = _ASSIGNED_ENCODED.sub(rf"\1{REDACTED}", _ADDRESS.sub(_hide_user, text))
    return _hide_values(_ASSIGNED, text)


def without_credentials(text: str) -> str:
    """Remove the user and the password, and replace secrets in the query, of URLs in a text."""
    return public_address(text).replace(f"{REDACTED}@", "")


def _hide_user(found: re.Match[str]) -> str:
    """Replace the credentials in a URL; an unescaped password may contain `@` and `/`."""
    scheme, rest = found.groups()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before, at, after = rest.rpartition("@")
    user, colon, password = before.partition(":")
    is_port = re.match(r"\d+[/?#]", password) and not _DATABASE.search(scheme.lower())
    if colon and at and "/" not in user and not is_port:
        return f"{scheme}{REDACTED}@{after}"
    if "@" in authority:
        return f"{scheme}{REDACTED}@{rest[authority.rindex('@') + 1 :]}"
    return found[0]


def _hide_values(keys: re.Pattern[str], text: str) -> str:
    """Replace the values of secret keys; the value of another key may contain further keys."""
    parts, done = [], 0
    for found in keys.finditer(text):
        key, between = found.groups()
        if found.start() < done or not (is_secret_key(key, "x") or _SIGNATURE_KEY.search(_plain(key))):
            continue
        value = _VALUE.match(text, found.end())
        if value is not None and (hidden := _hidden(key, between, value)) is not None:
            parts += [text[done : found.end()], hidden]
            done = value.end()
    return "".join([*parts, text[done:]])


def _hidden(key: str, between: str, found: re.Match[str]) -> str | None:
    """Return the replacement for a secret value, or None if the value is not a secret."""
    value, quote = found[0], found["quote"] or ""
    bare = value.rstrip(")]}") or value
    inside = value[len(quote) : -len(quote)] if quote else bare
    if not (is_secret_key(key, inside) or _SIGNATURE_KEY.search(_plain(key))):
        return None
    is_sentence = between.strip() == ":" and not quote  # "token: a piece of a text"
    if is_sentence and _AMBIGUOUS_KEY.search(_plain(key)) and not _is_random(bare):
        return None
    return f"{quote}{REDACTED}{quote}" if quote else f"{REDACTED}{value[len(bare) :]}"


def _is_random(text: str) -> bool:
    """Return whether a word looks random, and not like a word of a language."""
    return len(text) >= 20 or (len(text) >= 6 and bool(re.search(r"\d", text)))


def _plain(key: str) -> str:
    """Convert a key of any style to snake_case."""
    return "_".join(word for word in re.split(r"[^A-Za-z0-9]+", _HUMP.sub("_", key)) if word).lower()

"""Find personal data by patterns and check digits, and replace it by its kind."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable


def _is_card(number: str) -> bool:
    """Return whether Luhn's check digit is right (ISO/IEC 7812-1, annex B)."""
    digits = [int(digit) for digit in reversed(re.sub(r"\D", "", number))]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and any(digits)


def _is_iban(number: str) -> bool:
    """Return whether the check digits of an IBAN are right: the remainder modulo 97 is 1 (ISO 13616)."""
    compact = number.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return len(re.sub(r"[:.]", "", address)) >= 4


def _always(_: str) -> bool:
    return True


_MAIL_NAME = r"(?<![\w.+%-])[\w.+%-]{1,64}"
_MAIL_HOST = r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,5}\.[A-Za-z]{2,24}\b"
_IBAN = r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
_CARD = r"(?<![\d.-])[0-9](?:[ -]?[0-9]){12,18}(?![\d-])"
_IPV4 = r"(?<![\w.:])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w:]|\.\w)"
_IPV6 = r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"
_PHONE_ABROAD = r"(?<![\w+])\+[0-9](?:[ ()./-]{0,2}[0-9]){7,14}(?!\w)"
_PHONE_US = r"(?<![\w.(-])(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}(?![\w-])"
_PHONE_DE = r"(?<![\d.-])(?<!\d )0[1-9][0-9]{1,4} ?[ /-] ?[0-9](?:[ -]?[0-9]){4,9}(?![\d-])"
_PHONE_ZH = r"(?<![\d.-])1[3-9][0-9]{9}(?![\d-])"

# Every repetition is bounded, or cannot begin in its own middle, so that the time is linear in the text.
_PATTERNS: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = [
    ("email", re.compile(f"{_MAIL_NAME}@{_MAIL_HOST}"), _always),
    ("iban", re.compile(_IBAN, re.ASCII), _is_iban),
    ("card", re.compile(_CARD), _is_card),
    ("ip", re.compile(f"{_IPV4}|{_IPV6}"), _is_ip),
    ("phone", re.compile("|".join((_PHONE_ABROAD, _PHONE_US, _PHONE_DE, _PHONE_ZH))), _always),
]


def scrub(text: str) -> tuple[str, Counter[str]]:
    """Replace personal data by `[email]`, `[iban]`, `[card]`, `[ip]` or `[phone]`, and count each kind."""
    counts: Counter[str] = Counter()
    for name, pattern, is_right in _PATTERNS:

        def tag(match: re.Match[str], name: str = name, is_right: Callable[[str], bool] = is_right) -> str:
            if not is_right(match.group()):
                return match.group()
            counts[name] += 1
            return f"[{name}]"

        text = pattern.sub(tag, text)
    return text, counts

"""What the commands share of reading their arguments."""

from argparse import ArgumentTypeError


def count(word: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise ArgumentTypeError(f"'{word}' is no whole number of 1 or more")
    return int(word)

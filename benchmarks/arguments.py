"""Argument types shared by the benchmarks."""

from argparse import ArgumentTypeError


def count(word: str) -> int:
    """Parse a positive integer, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise ArgumentTypeError(f"'{word}' is not a whole number of 1 or more")
    return int(word)

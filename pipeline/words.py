"""Format numbers and texts for people to read."""

import math


def shorten(text: str, limit: int) -> str:
    """Cut text that is longer than `limit` characters; its last character is then an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def count(number: float) -> str:
    """Format a count with a unit: 950; 12.3 k; 4.7 M; 3.1 G; 2.0 T; 3.10e+18."""
    for limit, size, unit in ((1e12, 1e12, " T"), (1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(number) >= 1e15:
            return f"{number:.2e}"
        if abs(number) >= limit:
            return f"{number / size:.1f}{unit}"
    return f"{number:,.0f}"


def clock(seconds: float) -> str:
    """Format a duration as a clock shows it: 0:07, 12:30, 3:05:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def size_words(size: float) -> str:
    """Format bytes in a suitable decimal unit: 512 kB, 1.5 MB, 36.8 GB, 3.28 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.{max(0, 2 - int(math.log10(size / factor)))}f} {unit}"
    return f"{size / 1e3:.0f} kB"

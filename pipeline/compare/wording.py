"""Format numbers and names for readers."""

from collections.abc import Sequence

from pipeline.tasks.finetuning import Score
from pipeline.words import count

ABSENT = "—"
#: A letter for each run, since names are too long for legends and columns.
LETTERS = "ABCDEFGHIJKL"


def metric_words(name: str) -> str:
    """Format `test/exact_match` as `exact match`, and `test/TASK/acc` as `TASK: acc`."""
    *before, bare = name.split("/")
    words = ": ".join([*before[1:], bare.replace("_", " ")])
    return f"validation {words}" if before[:1] == ["val"] else words


def ratio_words(first: float, second: float, what: str) -> str:
    """Format a ratio, such as `1.5 times as many tokens`."""
    ratio = first / second
    times = f"{ratio:.1f}" if ratio >= 0.1 else f"{ratio:.2g}"
    return f"as many {what}" if times == "1.0" else f"{times} times as many {what}"


def list_words(words: Sequence[str]) -> str:
    """Join words as `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def score_words(score: Score | None) -> str:
    """Format a value with its interval and the number of rows."""
    if score is None:
        return ABSENT
    interval = (
        "" if score.low is None or score.high is None else f" [{number(score.low)}, {number(score.high)}]"
    )
    rows = "" if score.n_rows is None else f" (n = {score.n_rows:,})"
    return number(score.value) + interval + rows


def number(value: float) -> str:
    """Format with four decimals, or fewer for large values."""
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def large(value: float | None, unit: str = "") -> str:
    """Format a count with its unit: `4.7 MB`."""
    if value is None:
        return ABSENT
    text = count(value)
    return f"{text}{unit}" if text[-1].isalpha() or not unit else f"{text} {unit}"


def duration(seconds: float | None) -> str:
    """Format seconds; above two minutes also as minutes or hours."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"

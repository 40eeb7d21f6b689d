"""Alternate between measurements, so that a busy machine slows all of them alike."""

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

Found = dict[str, list[dict[str, Any]]]


def take_turns(turns: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> Iterator[Found]:
    """Run each of `turns` once per round, in reverse in every second round; yield all results so far."""
    found: Found = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
            found[name].append(turns[name]())
            yield found


def median_ratio(found: Found, name: str, other: str, figure: str) -> float | None:
    """Return the median, over complete rounds, of a figure of `other` divided by that of `name`, if any."""
    pairs = zip(found.get(name, []), found.get(other, []), strict=False)
    ratios = [theirs[figure] / ours[figure] for ours, theirs in pairs]
    return median(ratios) if ratios else None

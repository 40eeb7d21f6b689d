"""Metrics of a running server, in the text format of Prometheus.

Source: Prometheus, "Exposition formats", version 0.0.4.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class _Count:
    """A counter for each set of labels."""

    kind = "counter"

    def __init__(self) -> None:
        self.values: Counter[Labels] = Counter()

    def lines(self, name: str) -> list[str]:
        return [f"{name}{_shown(labels)} {value:g}" for labels, value in sorted(self.values.items())]


class _Histogram:
    """A histogram for each set of labels: counts by bucket, and the sum of the values."""

    kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets: dict[Labels, list[int]] = {}
        self.sums: Counter[Labels] = Counter()

    def lines(self, name: str) -> list[str]:
        lines = []
        for labels, counts in sorted(self.buckets.items()):
            total = 0
            for bound, number in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
                total += number
                lines.append(f"{name}_bucket{_shown((*labels, ('le', bound)))} {total}")
            lines.append(f"{name}_sum{_shown(labels)} {self.sums[labels]:g}")
            lines.append(f"{name}_count{_shown(labels)} {total}")
        return lines


class Metrics:
    """All metrics of the server; its methods are thread-safe.

    Args:
        gauges: a description and a function that returns the current value, by name.
    """

    def __init__(self) -> None:
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._lock = threading.Lock()
        self._counts = {name: (text, _Count()) for name, text in _COUNTS.items()}
        self._histograms = {name: (text, _Histogram(bounds)) for name, (text, bounds) in _HISTOGRAMS.items()}

    def count(self, name: str, number: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name][1].values[tuple(sorted(labels.items()))] += number  # type: ignore[assignment]

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        histogram, key = self._histograms[name][1], tuple(sorted(labels.items()))
        with self._lock:
            counts = histogram.buckets.setdefault(key, [0] * (len(histogram.bounds) + 1))
            counts[bisect_left(histogram.bounds, value)] += 1
            histogram.sums[key] += value  # type: ignore[assignment]

    def text(self) -> str:
        """Return the current values of all metrics."""
        lines: list[str] = []
        with self._lock:
            metrics: dict[str, tuple[str, _Count | _Histogram]] = {**self._counts, **self._histograms}
            for name, (text, metric) in metrics.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {metric.kind}", *metric.lines(name)]
        for name, (text, read) in self.gauges.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_COUNTS = {
    "prelude_requests_total": "Answered requests, by path and status.",
    "prelude_rows_total": "Predicted rows, by model.",
    "prelude_prompt_tokens_total": "Prompt tokens, by model.",
    "prelude_written_tokens_total": "Generated tokens, by model.",
    "prelude_masked_total": "Matches masked in answers, by kind.",
    "prelude_reloads_total": "Switches to another version, by model.",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HISTOGRAMS = {
    "prelude_request_seconds": ("Duration of requests in seconds, by path.", _SECONDS),
    "prelude_first_token_seconds": ("Time to the first token in seconds, by model.", _SECONDS),
    "prelude_batch_rows": ("Rows per batch of predictions.", (1, 2, 4, 8, 16, 32, 64)),
    "prelude_decoding_rows": ("Rows per decoding step.", (1, 2, 4, 8, 16, 32, 64)),
}

"""Masks parts of responses: personal data, and matches of the user's own patterns."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from datamodules.cleaning.privacy import scrub
from pipeline.errors import ConfigError
from pipeline.serving.metrics import Metrics
from pipeline.serving.options import ServingOptions
from pipeline.tasks.finetuning import Prediction

MASKED = "[masked]"


class Filter:
    """Masks texts and counts the matches; by default it changes nothing.

    Raises:
        ConfigError: a pattern is not a regular expression.
    """

    def __init__(self, options: ServingOptions, metrics: Metrics) -> None:
        self._scrubs = options.mask_personal_data
        self._patterns = [_compiled(pattern) for pattern in options.masked_patterns]
        self._metrics = metrics

    @property
    def is_on(self) -> bool:
        """Whether anything is masked."""
        return self._scrubs or bool(self._patterns)

    def text(self, text: str) -> str:
        """Return the text with each match replaced by its kind."""
        counts: Counter[str] = Counter()
        if self._scrubs:
            text, counts = scrub(text)
        for pattern in self._patterns:
            text, number = pattern.subn(MASKED, text)
            counts["pattern"] += number
        for kind, number in counts.items():
            if number:
                self._metrics.count("prelude_masked_total", number, kind=kind)
        return text

    def prediction(self, prediction: Prediction) -> Prediction:
        """Return the prediction with all its texts masked."""
        if not self.is_on:
            return prediction
        return replace(
            prediction, text=self.text(prediction.text), details=self._masked(dict(prediction.details))
        )

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._masked(key): self._masked(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(one) for one in value]
        return value


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"serving.masked_patterns: {pattern!r} is not a regular expression ({error})",
            "a regular expression of Python's `re`",
            "correct the pattern; escape special characters with a backslash",
        ) from None

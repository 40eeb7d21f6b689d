"""Parse swept keys, in Hydra's grammar, to distributions of Optuna."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pipeline.config.grammar import read_overrides
from pipeline.config.groups import groups
from pipeline.errors import ConfigError

LOG = "log"
EXPECTED = "key=value, key=a,b,c or key=interval(low,high)"


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A key with several values.

    Args:
        key: the key, as typed.
        text: its values, as typed.
        distribution: the distribution to draw from.
        values: all values, as words, if they can be listed.
    """

    key: str
    text: str
    distribution: BaseDistribution
    values: list[str] | None

    @property
    def ends(self) -> list[str]:
        """The values to check for validity: all listed ones, or the bounds of a range."""
        if self.values is not None:
            return self.values
        if not isinstance(self.distribution, FloatDistribution | IntDistribution):
            raise TypeError(f"{self.distribution} is not a range")
        return [word_of(self.distribution.low), word_of(self.distribution.high)]


def read_words(words: Sequence[str], *, listed: bool) -> tuple[list[str], list[Swept]]:
    """Split words into fixed ones and swept keys; with `listed`, for a grid, all values must be listable.

    Raises:
        ConfigError: if nothing is swept, a key is swept twice, a word is invalid, or its values cannot be
            listed or drawn.
    """
    fixed: list[str] = []
    swept: dict[str, Swept] = {}
    for override in read_overrides(words, expected=EXPECTED):
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.get_key_element() in swept:
            raise ConfigError(f"{override.get_key_element()} is swept twice", "each key once", "give it once")
        else:
            swept[override.get_key_element()] = _swept(override, listed=listed)
    if not swept:
        raise ConfigError(
            "there is nothing to sweep: no key has more than one value",
            'at least one list or range, for example ARGS="optimizer.lr=1e-3,4e-3 size=nano,tiny"',
            "give a key several values",
        )
    return fixed, list(swept.values())


def combinations(swept: Sequence[Swept]) -> list[dict[str, str]]:
    """Return every combination of listed values, in the order typed: the last key varies fastest."""
    lists = [key.values or [] for key in swept]
    return [dict(zip([key.key for key in swept], values, strict=True)) for values in product(*lists)]


def examples(swept: Sequence[Swept]) -> Iterator[dict[str, str]]:
    """Yield combinations to check; the first ones cover each listed value and each bound of a range."""
    names, ends = [key.key for key in swept], [key.ends for key in swept]
    for i in range(max(map(len, ends))):
        yield dict(zip(names, [each[i % len(each)] for each in ends], strict=True))
    for values in product(*ends):
        yield dict(zip(names, values, strict=True))


def words_of(params: Mapping[str, Any], swept: Sequence[Swept]) -> dict[str, str]:
    """Format drawn parameters as words, in the order typed."""
    return {key.key: word_of(params[key.key]) for key in swept}


def word_of(value: Any) -> str:
    """Format a value as it is typed, to the last digit."""
    return value if isinstance(value, str) else repr(value)


def _swept(override: Override, *, listed: bool) -> Swept:
    key, text, value = override.get_key_element(), override.get_value_string(), override._value
    _check_tags(key, getattr(value, "tags", set()))
    values = _values(override, value)
    if values is not None and not values:
        raise ConfigError(f"{key}={text} has no values", "at least one value", f"correct {key}")
    if listed and values is None:
        raise ConfigError(
            f"{key}={text} has infinitely many values, but sweep.sampler=grid tries each one",
            "a list such as 1e-4,3e-4 or a range such as range(1,5)",
            "give a list, or choose sweep.sampler=random or sweep.sampler=optuna",
        )
    try:
        distribution = _distribution(value, values, listed=listed)
    except ValueError as error:
        raise ConfigError(
            f"{key}={text}: {str(error).rstrip('.')}", "a range from low to high", f"correct {key}"
        ) from error
    return Swept(key=key, text=text, distribution=distribution, values=values)


def _check_tags(key: str, tags: set[str]) -> None:
    if unknown := sorted(tags - {LOG}):
        raise ConfigError(
            f"{key}: the tag {unknown[0]} is not supported", "tag(log, ...)", f"leave out {unknown[0]}"
        )


def _values(override: Override, value: Any) -> list[str] | None:
    """Return all values as words; None for an interval."""
    if isinstance(value, IntervalSweep):
        return None
    if isinstance(value, Glob):
        return list(value.filter(groups().get(override.key_or_group, [])))
    if isinstance(value, RangeSweep):  # 0.1 + 0.1 + 0.1 is 0.30000000000000004
        return [word_of(_rounded(each)) for each in override.sweep_iterator()]
    return list(dict.fromkeys(map(str, override.sweep_iterator(transformer=Transformer.str))))


def _rounded(value: Any) -> Any:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _distribution(value: Any, values: list[str] | None, *, listed: bool) -> BaseDistribution:
    """Return the distribution of a key: over numbers for a range, over words for a list and in a grid.

    Raises:
        ValueError: if Optuna rejects the range.
    """
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, LOG in value.tags
        if all(isinstance(end, int) for end in (low, high)):  # int(interval(1,8))
            return IntDistribution(int(low or 0), int(high or 0), log=log)
        return FloatDistribution(float(low or 0.0), float(high or 0.0), log=log)
    if isinstance(value, RangeSweep) and values and not listed and float(value.step) > 0:
        log = LOG in value.tags
        if isinstance(value.start, int) and isinstance(value.step, int):
            return IntDistribution(int(values[0]), int(values[-1]), log=log, step=value.step)
        step = None if log else float(value.step)
        return FloatDistribution(float(values[0]), float(values[-1]), log=log, step=step)
    if isinstance(value, ChoiceSweep | Glob | RangeSweep) and values is not None:
        return CategoricalDistribution(values)
    raise ValueError(f"{value} is neither a list nor a range")

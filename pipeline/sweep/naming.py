"""Format the values of a trial, and name its run."""

from collections.abc import Mapping, Sequence

from pipeline.runs.folders import MAX_NAME_LENGTH

#: Characters that need quotes in a shell or in Hydra's grammar, or that folder names must not contain.
_AWKWARD = str.maketrans(dict.fromkeys("/\\\"'`$ ,=:;()[]{}<>|&*?!#~\t\n", "_"))


def run_name(sweep: str, number: int, values: Mapping[str, str]) -> str:
    """Return a name that is unique among the trials and can be typed without quotes."""
    changed = "+".join(f"{key}-{value}" for key, value in short_values(values).items())
    ending = f"-{number:02d}-{changed}".translate(_AWKWARD)
    return f"{sweep[: MAX_NAME_LENGTH // 2]}{ending}"[:MAX_NAME_LENGTH].rstrip("+-._")


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> its shortest unique suffix, in whole parts."""
    found = {}
    for key in keys:
        parts = key.lstrip("+~").split(".")
        for n in range(1, len(parts) + 1):
            short = ".".join(parts[-n:])
            if sum(other.lstrip("+~") == short or other.endswith(f".{short}") for other in keys) <= 1:
                break
        found[key] = short
    return found


def short_values(values: Mapping[str, str]) -> dict[str, str]:
    """Format the values of a trial for display, with short keys and numbers."""
    names = short_keys(list(values))
    return {names[key]: _short_number(value) for key, value in values.items()}


def _short_number(word: str) -> str:
    try:
        number = float(word)
    except ValueError:
        return word
    return word if len(word) <= 6 else f"{number:.4g}"

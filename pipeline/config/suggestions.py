"""Suggest existing keys for a key of the configuration that does not exist."""

import difflib
from collections.abc import Iterable, Sequence

#: How similar two names must be, from 0 to 1, for one to be suggested for the other: among all keys of the
#: configuration, among the few names of one group or choice, and to suggest it without searching elsewhere.
ALIKE, ALIKE_OF_FEW, CERTAIN = 0.7, 0.5, 0.85

SEE_ALL = "see `make show-config`"


def suggest(word: str, known: Sequence[str], otherwise: str = SEE_ALL) -> str:
    """Return a hint with the known name that is most similar to `word`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=ALIKE_OF_FEW)
    return f"did you mean {close[0]}?" if close else otherwise


def suggest_key(typed: str, own: Sequence[str], everywhere: Iterable[str], otherwise: str = SEE_ALL) -> str:
    """Return a hint with the key that is most similar to `typed`: of its own group, or else of any group.

    Args:
        typed: a key with its groups.
        own: the names that are valid in its group.
        everywhere: every key with its groups, such as `trainer.max_steps`; read only if no name in `own` is
            similar.
        otherwise: the hint if no key is similar.
    """
    word = typed.lower().replace("-", "_").lstrip("+~_")
    found = difflib.get_close_matches(word.rpartition(".")[2], own, n=1, cutoff=CERTAIN)
    found = found or _meant(word, [key for key in everywhere if key != typed])
    return f"did you mean {' or '.join(found)}?" if found else otherwise


def _meant(typed: str, known: Sequence[str]) -> list[str]:
    """Return keys with the same name, or else a similar name, or else an abbreviated or spelt-out name."""
    last = typed.rpartition(".")[2]
    names = {key: key.rpartition(".")[2] for key in known}
    same = _highest([key for key, name in names.items() if name == last])
    if same:
        return same
    close = difflib.get_close_matches(typed, known, n=1, cutoff=ALIKE)
    if close:
        return close
    if near := difflib.get_close_matches(last, list(dict.fromkeys(names.values())), n=1, cutoff=ALIKE):
        return _highest([key for key, name in names.items() if name == near[0]])
    return _highest([key for key, name in names.items() if _abbreviates(last, name)])


def _abbreviates(typed: str, name: str) -> bool:
    """Return whether one abbreviates the other: `lr`, `learning_rate`; `bs`, `batch_size`; `num_x`, `n_x`."""
    if len(min(typed, name, key=len)) > 1 and (name == _initials(typed) or typed == _initials(name)):
        return True
    words, others = set(typed.split("_")) - {"num"}, set(name.split("_")) - {"n"}
    return bool(words and others) and (words <= others or others <= words)


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_") if word)


def _highest(keys: Sequence[str]) -> list[str]:
    """Return the keys with the fewest groups, at most three."""
    depth = min((key.count(".") for key in keys), default=0)
    return [key for key in keys if key.count(".") == depth][:3]

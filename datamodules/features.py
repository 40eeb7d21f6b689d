"""Examples as a model reads them, before padding, stored in flat arrays so that millions need no objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

Feature = dict[str, Ints]
"""One example: arrays of integers (n,) by name, each of its own length; `input_ids` is always present."""

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Features:
    """All examples of a split: for each name a flat array, and the offsets of the examples in it.

    Args:
        flat: name -> integers of all examples, concatenated; int32.
        offsets: name -> (N + 1,) int64; example i is `flat[name][offsets[name][i] : offsets[name][i + 1]]`.

    Raises:
        ValueError: if there is no `input_ids`, or offsets do not match their array or each other.
    """

    flat: Mapping[str, npt.NDArray[np.int32]]
    offsets: Mapping[str, Ints]

    def __post_init__(self) -> None:
        if "input_ids" not in self.flat or self.flat.keys() != self.offsets.keys():
            raise ValueError(
                f"flat has {sorted(self.flat)}, offsets has {sorted(self.offsets)}; "
                "expected the same names, and input_ids among them; use Features.of"
            )
        for name, offsets in self.offsets.items():
            size = len(self.flat[name])
            fits = len(offsets) == len(self.offsets["input_ids"]) > 0 and offsets[0] == 0
            if not fits or offsets[-1] != size or (np.diff(offsets) < 0).any():
                raise ValueError(
                    f"offsets of {name}; expected N + 1, rising from 0 to {size}; use Features.of"
                )

    @classmethod
    def of(cls, features: Iterable[Mapping[str, npt.ArrayLike]]) -> Self:
        """Collect features that all have the same names.

        Raises:
            ValueError: if there are no features, their names differ, or one is not a flat array of int32
                integers.
        """
        parts: dict[str, list[npt.NDArray[np.int32]]] = {}
        for number, feature in enumerate(features):
            if not number:
                parts = {name: [] for name in feature}
            if feature.keys() != parts.keys():
                raise ValueError(
                    f"feature {number} has {sorted(feature)}; expected {sorted(parts)} as in feature 0; "
                    "give every feature the same names"
                )
            for name, values in feature.items():
                parts[name].append(_as_int32(values, f"{name} of feature {number}"))
        if not parts:
            raise ValueError("no features; expected at least one; give at least one row")
        offsets = {name: np.cumsum([0, *map(len, arrays)], dtype=np.int64) for name, arrays in parts.items()}
        return cls({name: np.concatenate(arrays) for name, arrays in parts.items()}, offsets)

    def __len__(self) -> int:
        return len(self.offsets["input_ids"]) - 1

    @property
    def lengths(self) -> Ints:
        """Number of integers (N, names) of each example under each name, by which batches are sorted."""
        return np.stack([self.lengths_of(name) for name in self.offsets], axis=1)

    def lengths_of(self, name: str) -> Ints:
        """Return the number of integers (N,) of each example under a name."""
        return np.diff(self.offsets[name])

    def take(self, indices: npt.ArrayLike) -> list[Feature]:
        """Return copies of these examples as int64 arrays."""
        return [
            {
                name: self.flat[name][offsets[i] : offsets[i + 1]].astype(np.int64)
                for name, offsets in self.offsets.items()
            }
            for i in np.asarray(indices, np.int64).tolist()
        ]


def pad(arrays: Sequence[npt.NDArray[np.integer]], *, value: int, side: str = "right") -> Ints:
    """Stack arrays (n_i,) of integers to (B, W), padded with `value`; W is `padded_width(max(n_i))`.

    Raises:
        ValueError: if there are no arrays, or the side is neither "right" nor "left".
    """
    if not len(arrays) or side not in ("right", "left"):
        raise ValueError(
            f"{len(arrays)} arrays, side={side!r}; expected at least one array, and side right or left; "
            "give these"
        )
    width = int(padded_width(max(map(len, arrays))))
    padded = np.full((len(arrays), width), value, np.int64)
    for row, array in zip(padded, arrays, strict=True):
        if side == "right":
            row[: len(array)] = array
        else:
            row[width - len(array) :] = array
    return padded


def padded_width(longest: npt.ArrayLike) -> Ints:
    """Return the width of a batch, by element: at least 1, and `longest` rounded up by less than a sixteenth.

    Up to 32 that is `longest` itself; from there on, 16 widths remain between a power of two and the next,
    because kernels are cached by shape.
    """
    lengths = np.asarray(longest, np.int64)
    n_bits = np.frexp(lengths)[1]
    steps = 1 << np.maximum(n_bits - 5, 0).astype(np.int64)
    widths: Ints = np.maximum(-(-lengths // steps) * steps, 1)
    return widths


def _as_int32(values: npt.ArrayLike, what: str) -> npt.NDArray[np.int32]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError(
            f"{what} is {array.dtype} of shape {array.shape}; expected a flat array of integers; "
            "give one integer for each token"
        )
    if array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise ValueError(f"{what} contains {array.max()}; expected 32 bits; give token ids")
    return array.astype(np.int32)

"""The scores that decide a prediction; explanations attribute them to the input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from datamodules.collate import Batch


class Place(NamedTuple):
    """The characters [start, end) that a token covers in a column of its row."""

    column: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A score by which a model decides, and the input it is computed from.

    Args:
        about: what is decided, as a phrase for people that contains no corpus text.
        batch: the row as the model reads it: `input_ids` (1, T) and other tensors of the task's batch.
        score: a function from the model's logits for a batch to the score of each row (B,).
        places: the characters of the row that each token (T,) covers; None for a special token.
    """

    about: str
    batch: Batch
    score: Callable[[Tensor], Float[Tensor, " B"]]
    places: Sequence[Place | None]


def places_of(column: str, starts: npt.NDArray[np.integer], ends: npt.NDArray[np.integer]) -> list[Place]:
    """Return the places of the tokens of one column, from the offsets of their characters."""
    return [Place(column, int(start), int(end)) for start, end in zip(starts, ends, strict=True)]

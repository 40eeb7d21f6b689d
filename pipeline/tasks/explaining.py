"""The scores that decided a prediction, from which it is explained."""

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
    """A number by which a model decided, and what it read.

    Args:
        about: what was decided, for people; no text of a corpus.
        batch: the row as the model reads it: `input_ids` (1, T), and what else the batch of the task holds.
        score: the model's logits for a batch -> the number of each row (B,).
        places: for each token (T,) where it stands in the row; None for a special token.
    """

    about: str
    batch: Batch
    score: Callable[[Tensor], Float[Tensor, " B"]]
    places: Sequence[Place | None]


def places_of(column: str, starts: npt.NDArray[np.integer], ends: npt.NDArray[np.integer]) -> list[Place]:
    """The places of tokens of one column, from what each covers."""
    return [Place(column, int(start), int(end)) for start, end in zip(starts, ends, strict=True)]

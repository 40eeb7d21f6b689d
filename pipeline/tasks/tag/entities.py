"""Entities of BIO tags, and their precision, recall and F1, which equal seqeval's in its default mode.

Source: Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning" (BIO); Tjong Kim Sang and
De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section 2.4, `conlleval`; seqeval 1.2.2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.tasks.finetuning import Score
from pipeline.tasks.scoring import Floats, Ints, column_sums, statistic_score


class Entity(NamedTuple):
    """The words [first, end) of an entity, and its type."""

    first: int
    end: int
    type: str


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a row; an I- tag that does not continue an entity of its type begins one."""
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and found and found[-1].end == place and found[-1].type == kind:
            found[-1] = found[-1]._replace(end=place + 1)
        elif prefix != "O":
            found.append(Entity(place, place + 1, kind))
    return found


def counts(
    predicted: Sequence[Sequence[str]], targets: Sequence[Sequence[str]], types: Sequence[str]
) -> Ints:
    """Count correct, predicted and target entities by row and type: (N, 3, C)."""
    table = np.zeros((len(targets), 3, len(types)), np.int64)
    columns = {kind: column for column, kind in enumerate(types)}
    for row, pair in enumerate(zip(predicted, targets, strict=True)):
        said, true = (set(entities(tags)) for tags in pair)
        for line, some in enumerate((said & true, said, true)):
            for entity in some:
                table[row, line, columns[entity.type]] += 1
    return table


def scores(
    table: Ints, n_right: Ints, n_words: Ints, types: Sequence[str], *, intervals: bool
) -> dict[str, Score]:
    """Return F1, precision and recall of all entities, the accuracy of words, and the F1 of each type.

    Args:
        table: as `counts` returns it.
        n_right: the number of words with the right tag in each row (N,).
        n_words: the number of words in each row (N,).
        types: the C types; those without an entity in the targets have no F1.
        intervals: whether confidence intervals are computed, by resampling rows.
    """
    n_rows = len(table)
    every = table.sum(axis=2)
    words = np.stack((n_right, n_words), axis=1)

    def of(counted: Ints, above: int, below: Sequence[int]) -> Score:
        """Return the ratio of one count to the mean of others, as 2 * right / (predicted + true)."""

        def ratio(rows: Ints) -> Floats:
            sums = column_sums(rows, counted)
            return _ratio(len(below) * sums[:, above], sums[:, list(below)].sum(axis=1))

        return statistic_score(ratio, n_rows, intervals=intervals)

    metrics = {
        "f1": of(every, 0, (1, 2)),
        "precision": of(every, 0, (1,)),
        "recall": of(every, 0, (2,)),
        "accuracy": of(words, 0, (1,)),
    }
    for column, kind in enumerate(types):
        if table[:, 2, column].any():
            metrics[f"f1_{kind}"] = of(table[:, :, column], 0, (1, 2))
    return metrics


def row_f1(table: Ints) -> Floats:
    """Return the F1 of each row (N,); 1 if it has no entity and none is predicted."""
    right, said, true = table.sum(axis=2).T.astype(np.float64)
    return np.where(said + true > 0, _ratio(2 * right, said + true), 1.0)


def type_rows(table: Ints, types: Sequence[str]) -> list[tuple[str, float, float, float, int]]:
    """Return precision, recall, F1 and the number of target entities of each type, as a table."""
    right, said, true = table.sum(axis=0).astype(np.float64)
    columns = (_ratio(right, said), _ratio(right, true), _ratio(2 * right, said + true))
    return [
        (kind, *(float(column[i]) for column in columns), int(true[i]))  # type: ignore[misc]
        for i, kind in enumerate(types)
    ]


def _ratio(above: Floats, below: Floats) -> Floats:
    result: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result

"""Mix several corpora, each with its share of the training rows."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datamodules.corpus.as_text import of_one_type
from datamodules.corpus.columns import TEXT_ONLY, Columns
from datamodules.corpus.forms import tables_in_one_form
from datamodules.corpus.rows import Corpus, Rows, fingerprint_of
from datamodules.errors import DataError
from datamodules.source import Source


@dataclass(frozen=True)
class Mixture(Source):
    """A corpus of several sources: training rows in fixed shares, shuffled, and held-out rows concatenated.

    The source that is largest relative to its weight is used once. The others are repeated, each time in
    another order, until the shares are right. So no rows are left out, and the size of a mixture is that of
    the largest source divided by its share.

    Rows have the required columns, and the optional ones that all sources have.

    Args:
        sources: name -> a source (`Files`, `Mirror`, `Hub`, `StoryWorld`) that is not streamed.
        weights: name -> relative weight above 0; None: every row of every source once.
        seed: the seed of the order, and of which rows are repeated.
        name: short name of the corpus; by default those of the sources.

    Raises:
        DataError: if there are no sources, the weights have other names, or a weight is not above 0.
    """

    sources: dict[str, Source]
    weights: dict[str, float] | None = None
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise DataError(
                "data.sources is empty",
                "at least one source",
                "give data.sources.NAME._target_=... or compose one: /data@data.sources.NAME: sst2",
            )
        if self.weights is None:
            return
        if self.weights.keys() != self.sources.keys():
            raise DataError(
                f"data.weights names {', '.join(self.weights)}",
                f"a weight for each of {', '.join(self.sources)}",
                "give each source its weight, or leave data.weights out",
            )
        if any(not weight > 0 for weight in self.weights.values()):
            raise DataError(
                f"data.weights is {self.weights}", "weights above 0", "leave out the source instead"
            )

    def load(self, columns: Columns = TEXT_ONLY) -> Corpus:
        """Load all sources and mix them; the same arguments give the same rows in the same order.

        Raises:
            DataError: if a source cannot be loaded (the error names it) or is a stream, or a column has
                different types.
        """
        corpora = {name: self._loaded(name, columns) for name in self.sources}
        train = _joined({name: corpus.train for name, corpus in corpora.items()}, columns)
        tests = {name: corpus.test for name, corpus in corpora.items() if corpus.test is not None}
        return Corpus(
            name=self.name or "+".join(self.sources),
            train=train.select(self._order([len(corpus.train) for corpus in corpora.values()])),  # type: ignore[arg-type]
            validation=_joined({name: corpus.validation for name, corpus in corpora.items()}, columns),
            test=_joined(tests, columns) if tests else None,
            fingerprint=fingerprint_of(
                mixture=[[name, corpus.fingerprint] for name, corpus in corpora.items()],
                weights=None if self.weights is None else [self.weights[name] for name in corpora],
                seed=self.seed,
            ),
            sources=[source for corpus in corpora.values() for source in corpus.sources],
            notes=[f"{name}: {note}" for name, corpus in corpora.items() for note in corpus.notes],
        )

    def identity(self) -> str:
        """Return a hash of the identities of all sources; the weights are part of the configuration.

        Raises:
            DataError: if the identity of a source is not known; the error names the source.
        """
        return fingerprint_of(mixture=list(self._of_each(lambda source: source.identity())))

    def snapshot(self) -> str | None:
        """Return a hash of the snapshots of all sources; None if that of a source is not known.

        Raises:
            DataError: if a file of a source is missing or cannot be read; the error names the source.
        """
        snapshots = list(self._of_each(lambda source: source.snapshot()))
        return fingerprint_of(mixture=snapshots) if all(found for _, found in snapshots) else None

    def _of_each(self, ask: Callable[[Source], str | None]) -> Iterator[tuple[str, str | None]]:
        for name, source in self.sources.items():
            with _named(name):
                yield name, ask(source)

    def _loaded(self, name: str, columns: Columns) -> Corpus:
        source = self.sources[name]
        with _named(name):
            corpus = source.load(columns)
        if corpus.n_train_rows is None:
            raise DataError(
                f"data.sources.{name} is streamed",
                "sources that can be read again and in any order",
                f"set data.sources.{name}.streaming=false, or leave it out",
            )
        return corpus

    def _order(self, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return the mixture's training rows, as indices into the concatenated rows of the sources."""
        weights = list(sizes) if self.weights is None else [self.weights[name] for name in self.sources]
        total = max(size / weight for size, weight in zip(sizes, weights, strict=True))
        starts = np.cumsum([0, *sizes[:-1]])
        random = np.random.default_rng((self.seed, 0))
        rows = [
            start + _repeated(size, round(total * weight), random)
            for start, size, weight in zip(starts, sizes, weights, strict=True)
        ]
        return random.permutation(np.concatenate(rows))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the name of the source to errors."""
    try:
        yield
    except DataError as error:
        remedy = re.sub(r"\bdata\.(?!sources\.)", f"data.sources.{name}.", error.remedy)
        raise DataError(f"data.sources.{name}: {error.problem}", error.expected, remedy) from error


def _repeated(size: int, n: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return `n` row numbers below `size`, in which the frequencies of any two differ by at most one."""
    return np.concatenate([random.permutation(size) for _ in range(-(-n // size))])[:n]


def _joined(parts: Mapping[str, Any], columns: Columns) -> Rows:
    import datasets

    common = [*columns.required, *_in_all(parts.values(), columns.optional)]
    tables = [
        rows.select_columns(common).with_format("arrow")[:].replace_schema_metadata()
        for rows in parts.values()
    ]
    try:
        alike = tables_in_one_form(of_one_type(tables))
        return datasets.Dataset(pa.concat_tables(alike, promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        found = "; ".join(f"{name}: {_types(table)}" for name, table in zip(parts, tables, strict=True))
        raise DataError(
            f"the sources' columns are of different types ({found})",
            "the same types in all sources",
            "map columns of the same type, for example labels as names",
        ) from error


def _in_all(parts: Any, names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if all(name in rows.column_names for rows in parts))


def _types(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)

"""The interface of the sources of rows that the configuration's `data` names."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # pyarrow is slow to import, and configuring the story world does not need it
    from datamodules.corpus.columns import Columns
    from datamodules.corpus.rows import Corpus


@runtime_checkable
class Source(Protocol):
    """A corpus that can be loaded; classes that a configuration may name are subclasses."""

    def load(self, columns: "Columns" = ...) -> "Corpus":
        """Load the rows with these columns."""
        ...

    def identity(self) -> str:
        """Return a string that identifies the rows without reading them."""
        ...

    def snapshot(self) -> str | None:
        """Return a string that, with the options of the source, identifies what `load` returns.

        Unlike the identity, it depends on the names of files, which a corpus records. None: only reading the
        rows tells.
        """
        return None

"""What a configuration's `data` is: something that gives rows."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # pyarrow takes its time to import, and the story world needs none of it to be configured
    from datamodules.corpus.columns import Columns
    from datamodules.corpus.rows import Corpus


@runtime_checkable
class Source(Protocol):
    """A corpus that can be loaded. Those that a configuration may name are subclasses."""

    def load(self, columns: "Columns" = ...) -> "Corpus":
        """Give the rows with these columns."""
        ...

    def identity(self) -> str:
        """Tell these rows from others without reading them."""
        ...

"""Text from anywhere to rows with named columns: local files, a local mirror, or the hub."""

from datamodules.corpus.files import Files, Mirror
from datamodules.corpus.hub import Hub
from datamodules.corpus.rows import Corpus, Row, texts

__all__ = ["Corpus", "Files", "Hub", "Mirror", "Row", "texts"]

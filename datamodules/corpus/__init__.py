"""Corpora as rows with named columns: from local files, a mirror, the Hugging Face Hub, or a mixture."""

from datamodules.corpus.columns import TEXT_ONLY, Columns
from datamodules.corpus.files import Files, Mirror
from datamodules.corpus.hub import Hub
from datamodules.corpus.inputs import given_rows, read_rows
from datamodules.corpus.mixture import Mixture
from datamodules.corpus.rows import Corpus, LazyRows, Row, numbers_of, texts

__all__ = [
    "TEXT_ONLY",
    "Columns",
    "Corpus",
    "Files",
    "Hub",
    "LazyRows",
    "Mirror",
    "Mixture",
    "Row",
    "given_rows",
    "numbers_of",
    "read_rows",
    "texts",
]

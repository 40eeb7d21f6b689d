from functools import partial
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from datamodules.collate import Batch, RowBatch, collate_causal, collate_denoise, collate_masked
from datamodules.corruption import TokenTable
from datamodules.inspect import show_rows
from datamodules.packing import pack
from datamodules.tokenizer import Bytes

TOKENIZER = Bytes().train([])
TOKENS = TokenTable.of(TOKENIZER)
TEXTS = ["Mia [bold]finds[/bold] it", "米娅在旧谷仓", "evil \x1b[31m \u202e"]
COLLATES = {
    "causal": collate_causal,
    "masked": partial(collate_masked, tokens=TOKENS, seed=0),
    "denoise": partial(collate_denoise, tokens=TOKENS, seed=0),
}


def batch_of(texts: list[str], name: str) -> Batch:
    documents = [np.array([TOKENS.bos_id, *TOKENIZER.encode(text), TOKENS.eos_id]) for text in texts]
    ids, segments = next(pack(documents, row_tokens=100, pad_id=TOKENS.pad_id))
    return COLLATES[name](RowBatch(ids, segments, np.arange(len(ids))))


def printed(batch: Batch, n: int = 1, width: int = 100) -> str:
    out = StringIO()
    Console(file=out, width=width).print(show_rows(batch, TOKENIZER, n))
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(COLLATES))
def test_a_row_fits_100_columns_and_steers_no_terminal(name: str) -> None:
    text = printed(batch_of(TEXTS, name))
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_text_of_each_document_is_shown_as_it_is() -> None:
    text = printed(batch_of(TEXTS, "causal"))
    assert "document 1: <bos>Mia [bold]finds[/bold] it<eos>" in text
    assert "document 2: <bos>米娅在旧谷仓<eos>" in text
    assert "document 3: <bos>evil ␛[31m �" in text


def cells(text: str) -> list[list[str]]:
    """The lines of the tables as lists of cells."""
    lines = [line.split() for line in text.splitlines()]
    return [line for line in lines if len(line) in (5, 7) and line[0].isdigit()]


def test_a_causal_row_shows_ids_positions_documents_and_next_tokens() -> None:
    lines = cells(printed(batch_of(["ab", "c"], "causal")))
    a, b, c = (str(int(token)) for token in TOKENIZER.encode("abc"))
    assert lines[:7] == [
        ["0", "0", "1", "1", "<bos>", a, "a"],
        ["1", "1", "1", a, "a", b, "b"],
        ["2", "2", "1", b, "b", "2", "<eos>"],
        ["3", "3", "1", "2", "<eos>", ".", "."],
        ["4", "0", "2", "1", "<bos>", c, "c"],
        ["5", "1", "2", c, "c", "2", "<eos>"],
        ["6", "2", "2", "2", "<eos>", ".", "."],
    ]
    assert lines[7][2] == "pad"


def test_every_masked_token_of_a_long_row_is_shown_with_its_label() -> None:
    batch = batch_of(
        ["a lantern stood by the old harbour wall while Mia waited for her own brother"], "masked"
    )
    lines = cells(printed(batch))
    shown = {int(line[0]) for line in lines}
    assert set(batch["label_index"].tolist()) <= shown
    assert len(shown) < 78
    for column in batch["label_index"].tolist():
        line = next(line for line in lines if int(line[0]) == column)
        assert line[-2] == str(int(batch["labels"][0, column]))


def test_source_and_target_of_a_denoising_row_are_shown_apart() -> None:
    text = printed(batch_of(["the lantern is in the barn"], "denoise"))
    source, target = text.split("target (decoder)")
    assert "source (encoder)" in source
    assert "<extra_0>" in source
    assert "label" not in source
    assert "label id" in target


def test_no_more_rows_are_shown_than_asked_for_or_present() -> None:
    batch = batch_of(["x" * 400], "causal")
    assert printed(batch, 2).count("row ") == 2
    assert printed(batch, 50).count("row ") == len(batch["labels"])

"""The picture of a model's attention: what is looked at, what may be shown, and when there is none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from datamodules.tokenizer import Bytes, Tokenizer
from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Decoder, EncoderDecoder, Transformer
from pipeline.evaluation.attention_picture import ATTENTION, beginning, draw_attention, log_attention
from pipeline.tracking import Run

TEXT = "Otto $x$ 有一只猫"


class Recorder(Run):
    """A run that keeps the files that it is told of."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @property
    def run_id(self) -> str:
        return "a"

    def log_file(self, path: Path, artifact: str) -> None:
        self.files[artifact] = path.read_bytes()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Bytes().train([])


def model(kind: type[Transformer], tokenizer: Tokenizer) -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(16, n_heads=2)
    backbone = kind(tokenizer.vocab_size, n_layers=2, max_seq_len=64, layer=layer, position=Rotary())  # type: ignore[call-arg]
    return Model(backbone, LMHead(backbone.output_embedding)).eval()


def ids(tokenizer: Tokenizer) -> Tensor:
    return torch.from_numpy(tokenizer.encode(TEXT)).long()[None]


def test_the_first_document_is_taken_without_padding_and_cut() -> None:
    row = torch.arange(8)[None]
    packed = {"input_ids": row, "segment_ids": torch.tensor([[1, 1, 1, 2, 2, 2, 0, 0]]), "labels": row}
    assert beginning(packed, 10).keys() == {"input_ids"}
    assert beginning(packed, 10)["input_ids"].tolist() == [[0, 1, 2]]
    assert beginning(packed, 2)["input_ids"].tolist() == [[0, 1]]
    padded_left = {"input_ids": row, "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])}
    assert beginning(padded_left, 3)["input_ids"].tolist() == [[2, 3, 4]]
    both = beginning({"input_ids": row, "decoder_input_ids": row[:, :4]}, 6)
    assert {name: tuple(side.shape) for name, side in both.items()} == {
        "input_ids": (1, 6),
        "decoder_input_ids": (1, 4),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Decoder, EncoderDecoder])
@pytest.mark.parametrize("show_text", [True, False])
def test_every_architecture_has_a_picture(
    kind: type[Transformer], show_text: bool, tokenizer: Tokenizer
) -> None:
    run, row = Recorder(), ids(tokenizer)
    batch = {"input_ids": row, **({"decoder_input_ids": row[:, :5]} if kind is EncoderDecoder else {})}
    log_attention(run, model(kind, tokenizer), tokenizer, batch, show_text=show_text)
    assert list(run.files) == [ATTENTION]
    assert run.files[ATTENTION].startswith(b"\x89PNG")


def test_words_stand_in_the_picture_only_where_they_may() -> None:
    weights = {"stack.self_attn": torch.full((1, 2, 3, 3), 1 / 3)}
    words = ["a", "secret", "a-very-long-token"]
    shown, hidden = (
        {label.get_text() for axes in figure.axes[:2] for label in axes.get_xticklabels()}
        for figure in (draw_attention(weights, {"input_ids": words}), draw_attention(weights, {}))
    )
    assert shown == {"a", "secret", "a-very-lo…"}
    assert not hidden & {"a", "secret", "a-very-lo…"}


def test_an_untracked_run_and_a_model_without_attention_have_none(tokenizer: Tokenizer) -> None:
    batch = {"input_ids": ids(tokenizer)}
    log_attention(Run(), model(Decoder, tokenizer), tokenizer, batch, show_text=True)
    run, without = Recorder(), model(Decoder, tokenizer)
    without.backbone.stack = nn.Identity()
    without.backbone.forward = lambda batch: batch["input_ids"][..., None].float()  # type: ignore[method-assign]
    log_attention(run, without, tokenizer, batch, show_text=True)
    assert run.files == {}

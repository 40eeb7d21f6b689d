"""Each family against `transformers` itself, with small random models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from modules.model import Model
from pipeline.interop.families import family_of
from pipeline.interop.shape import build_model
from pipeline.interop.table import Family

V, B, T, S = 61, 3, 24, 20


@dataclass(frozen=True)
class Case:
    family: str
    make: Callable[[], transformers.PreTrainedModel]


def _sized(config: type, model: type, **options: Any) -> Callable[[], transformers.PreTrainedModel]:
    return lambda: model(config(vocab_size=V, **options))


LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "max_position_embeddings": T,
}  # fmt: skip
BERT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": T,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}  # fmt: skip
T5_SIZES = {
    "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
t = transformers
CASES = {
    "llama": Case("llama", _sized(t.LlamaConfig, t.LlamaForCausalLM, **LLAMA)),
    "llama, tied": Case(
        "llama", _sized(t.LlamaConfig, t.LlamaForCausalLM, **LLAMA, tie_word_embeddings=True, head_dim=16)
    ),
    "qwen2": Case("qwen2", _sized(t.Qwen2Config, t.Qwen2ForCausalLM, **LLAMA)),
    "qwen3": Case(
        "qwen3", _sized(t.Qwen3Config, t.Qwen3ForCausalLM, **LLAMA, head_dim=16, tie_word_embeddings=True)
    ),
    "gpt2": Case(
        "gpt2", _sized(t.GPT2Config, t.GPT2LMHeadModel, n_embd=32, n_layer=3, n_head=4, n_positions=T)
    ),
    "bert": Case("bert", _sized(t.BertConfig, t.BertForMaskedLM, **BERT, max_position_embeddings=T)),
    "roberta": Case(
        "roberta",
        _sized(
            t.RobertaConfig, t.RobertaForMaskedLM, **BERT, type_vocab_size=1, max_position_embeddings=T + 2
        ),
    ),
    "bart": Case("bart", _sized(t.BartConfig, t.BartForConditionalGeneration, **BART)),
    "marian": Case(
        "marian",
        _sized(
            t.MarianConfig, t.MarianMTModel, **BART, scale_embedding=True, activation_function="swish",
            decoder_vocab_size=V,
        ),
    ),
    "t5": Case("t5", _sized(t.T5Config, t.T5ForConditionalGeneration, **T5_SIZES)),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest,
) -> tuple[Family, transformers.PreTrainedModel, Model, dict[str, Any]]:
    """The family, a model of theirs whose every weight matters, and the same model as ours, in float64."""
    made = CASES[request.param]
    torch.manual_seed(0)
    theirs = made.make().double().eval()
    if isinstance(theirs, t.T5ForConditionalGeneration):
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    fixed = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
    fixed = fixed if isinstance(theirs, t.MarianMTModel) else set()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name not in fixed:
                mean = 1.0 if "norm" in name.lower() and "weight" in name else 0.0
                weight.normal_(mean, 0.06 if name.endswith(".q.weight") else 0.25)  # T5 divides no scores
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_(0.0, 0.25)
    family = family_of(made.family)
    assert family is not None
    ours = family.to_ours(theirs.config.to_dict())
    state = {name: weight for name, weight in theirs.state_dict().items() if name not in fixed}
    model = build_model(ours).double().eval()
    model.load_state_dict(family.weights_to_ours(state, ours), strict=True)
    return family, theirs, model, ours


def batches(model: Model, *, padded: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch of ours, and the same as they want it."""
    torch.manual_seed(1)
    ids = torch.randint(4, V, (B, T))
    mask = torch.ones(B, T, dtype=torch.long)
    if padded:
        mask[0, 10:] = mask[1, 17:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if hasattr(model.backbone, "encoder"):
        decoder = {"decoder_input_ids": torch.randint(4, V, (B, S))}
        return batch | decoder, batch | decoder
    return batch, batch


@pytest.mark.parametrize("padded", [False, True])
def test_the_logits_equal_those_of_transformers(case: Any, padded: bool) -> None:
    _, theirs, model, _ = case
    mine, batch = batches(model, padded=padded)
    with torch.no_grad():
        expected = theirs(**batch).logits
        found = model.double()(mine)
    real = batch["attention_mask"].bool() if "decoder_input_ids" not in batch else slice(None)
    assert _relative_error(found[real], expected[real]) < 1e-6


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_a_round_trip_gives_every_bit_back(case: Any) -> None:
    family, _, model, ours = case
    back = family.to_ours(family.to_theirs(ours))
    assert back == ours
    state = model.float().state_dict()
    again = family.weights_to_ours(family.weights_to_theirs(state, ours), ours)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)

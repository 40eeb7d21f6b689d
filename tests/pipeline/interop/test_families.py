"""Each family against `transformers` itself, with small random models."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from modules.generation import SamplingOptions, generate
from modules.model import Model
from modules.transformer import Encoder, EncoderDecoder
from pipeline.errors import InteropError
from pipeline.interop.families import family_of
from pipeline.interop.fresh_process import states
from pipeline.interop.proof import hidden_states
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
    "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
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
    "qwen3, biases": Case(
        "qwen3",
        _sized(t.Qwen3Config, t.Qwen3ForCausalLM, **LLAMA, tie_word_embeddings=True, attention_bias=True),
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
            if name.endswith("o_proj.bias"):
                weight.zero_()
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_(0.0, 0.25)
    family = family_of(made.family)
    assert family is not None
    ours = family.to_ours(theirs.config.to_dict())
    state = {name: weight for name, weight in theirs.state_dict().items() if name not in fixed}
    model = build_model(ours).double().eval()
    model.load_state_dict(family.weights_to_ours(state, ours), strict=True)
    return family, theirs, model, ours


def batches(model: Model, *, padded: bool) -> dict[str, Tensor]:
    """A batch at the full context length; no token of it is one that RoBERTa takes for padding."""
    torch.manual_seed(1)
    ids = torch.randint(4, V, (B, T))
    mask = torch.ones(B, T, dtype=torch.long)
    if padded:
        mask[0, 10:] = mask[1, 17:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if isinstance(model.backbone, EncoderDecoder):
        batch["decoder_input_ids"] = torch.randint(4, V, (B, S))
    return batch


@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_hidden_states_equal_those_of_transformers(case: Any, padded: bool) -> None:
    family, theirs, model, ours = case
    batch = batches(model, padded=padded)
    with torch.no_grad(), hidden_states(model) as mine:
        made = theirs(**batch, output_hidden_states=True)
        found = model(batch)
    real = batch["attention_mask"].bool()
    expected = states(made, {f"hidden.{name}": 0 for name in mine})
    assert expected.keys() == mine.keys()
    for name, state in expected.items():
        seen = slice(None) if name.startswith("decoder") else real
        error = _relative_error(family.hidden_to_theirs(mine[name], ours)[seen], state[seen])
        assert error < 1e-6, f"the first layer that differs is {name}"
    seen = slice(None) if isinstance(model.backbone, EncoderDecoder) else real
    assert _relative_error(found[seen], made.logits[seen]) < 1e-6


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_greedy_generations_with_the_cache_are_the_same_token_for_token(case: Any) -> None:
    _, theirs, model, _ = case
    if isinstance(model.backbone, Encoder):
        return
    prompt = torch.randint(4, V, (1, 7))
    options = SamplingOptions(temperature=0.0, max_new_tokens=12)
    (mine,) = generate(model, prompt.tolist(), options, eos_id=V - 1, pad_id=0, bos_id=1)
    written = theirs.generate(
        prompt, max_new_tokens=12, do_sample=False, eos_token_id=V - 1, pad_token_id=0, bos_token_id=1,
        decoder_start_token_id=1,
    )[0].tolist()  # fmt: skip
    new = written[1:] if isinstance(model.backbone, EncoderDecoder) else written[7:]
    assert mine == (new[: new.index(V - 1)] if V - 1 in new else new)


def test_a_round_trip_gives_every_bit_back(case: Any) -> None:
    family, _, model, ours = case
    back = family.to_ours(family.to_theirs(ours))
    assert back == ours
    state = model.float().state_dict()
    again = family.weights_to_ours(family.weights_to_theirs(state, ours), ours)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_each_tensor_is_used_once_and_what_is_missing_or_left_over_is_named(case: Any) -> None:
    family, theirs, _, ours = case
    names = [name for rule in family.rules_for(ours) for name in rule.theirs]
    assert len(names) == len({*names})
    given = {name for name, _ in theirs.named_parameters()} - {*family.derived(ours)}
    assert given <= {*names}
    first, *others = names
    with pytest.raises(InteropError, match=rf"missing: {re.escape(first)}; not used: strange\.weight"):
        family.check_names([*others, "strange.weight"], ours)

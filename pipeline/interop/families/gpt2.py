"""GPT-2: a decoder with LayerNorm before each block, learned positions and a joint QKV matrix."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.interop.operations import Split, Transpose
from pipeline.interop.table import Entry, Family, Key, Ours, Rule, Theirs, linear, same

_LAYER = "backbone.layer."


class GPT2(Family):
    """Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

    model_type: ClassVar[str] = "gpt2"
    architecture: ClassVar[str] = "GPT2LMHeadModel"
    backbone: ClassVar[str] = "Decoder"
    prefix: ClassVar[str] = "transformer."

    def keys(self) -> list[Entry]:
        """Return sizes and activation; other options are fixed."""
        return [
            Key("vocab_size", "vocab_size"),
            Key("n_embd", _LAYER + "d_model"),
            Key("n_inner", _LAYER + "d_ff"),
            Key("n_layer", "backbone.n_layers"),
            Key("n_head", _LAYER + "n_heads"),
            Key("n_positions", "backbone.max_seq_len"),
            Key("n_positions", "backbone.position.max_seq_len"),
            Key("layer_norm_epsilon", _LAYER + "norm_eps"),
            Key(("resid_pdrop", "embd_pdrop", "attn_pdrop"), _LAYER + "dropout"),
            Key("tie_word_embeddings", "head.tied"),
            Key(
                "activation_function",
                _LAYER + "activation",
                {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"},
            ),
            Theirs("scale_attn_weights", True),
            Theirs("scale_attn_by_inverse_layer_idx", False),
            Theirs("add_cross_attention", False),
            Key("n_embd", "backbone.position.d_model"),
            Ours("backbone.position._target_", "modules.positions.Learned"),
            Ours("backbone.layer._target_", "modules.layers.LayerSpec"),
            Ours(_LAYER + "norm", "layer"),
            Ours(_LAYER + "norm_first", True),
            Ours(_LAYER + "embedding_norm", False),
            Ours(_LAYER + "bias", True),
            Ours(_LAYER + "qkv_bias", True),
            Ours(_LAYER + "qk_norm", False),
            Ours("backbone.n_token_types", 0),
            Ours("head._target_", "modules.heads.LMHead"),
            Ours("head.softcap", None),
            Ours("head.bias", False),
        ]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors; `Conv1D` stores its matrices transposed."""
        rules = [
            same("backbone.embedding.weight", "transformer.wte.weight"),
            same("backbone.position.embedding.weight", "transformer.wpe.weight"),
            *linear("backbone.stack.norm", "transformer.ln_f"),
        ]
        if not ours["head.tied"]:
            rules.append(same("head.own_embedding.weight", "lm_head.weight"))
        for i in range(ours["backbone.n_layers"]):
            rules += self._layer(
                f"backbone.stack.layers.{i}.", f"transformer.h.{i}.", ours[_LAYER + "d_model"]
            )
        return rules

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied head, and the masks that old files contain."""
        masks = [
            f"transformer.h.{i}.attn.{name}"
            for i in range(ours["backbone.n_layers"])
            for name in ("bias", "masked_bias")
        ]
        return (*masks, *(["lm_head.weight"] if ours["head.tied"] else []))

    def _layer(self, mine: str, theirs: str, d_model: int) -> list[Rule]:
        thirds = Split([d_model] * 3)
        parts = [f"{mine}self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
        rules = [
            *linear(f"{mine}self_attn_norm", f"{theirs}ln_1"),
            *linear(f"{mine}ffn_norm", f"{theirs}ln_2"),
            Rule(
                tuple(f"{part}.weight" for part in parts),
                (f"{theirs}attn.c_attn.weight",),
                [Transpose(), thirds],
            ),
            Rule(tuple(f"{part}.bias" for part in parts), (f"{theirs}attn.c_attn.bias",), [thirds]),
        ]
        for ours_name, theirs_name in (
            ("self_attn.out_proj", "attn.c_proj"),
            ("ffn.up_proj", "mlp.c_fc"),
            ("ffn.down_proj", "mlp.c_proj"),
        ):
            rules += [
                same(f"{mine}{ours_name}.weight", f"{theirs}{theirs_name}.weight", Transpose()),
                same(f"{mine}{ours_name}.bias", f"{theirs}{theirs_name}.bias"),
            ]
        return rules

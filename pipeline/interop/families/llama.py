"""Llama, Qwen2 and Qwen3: decoders with RMSNorm before each block, rotary positions and a gated network.

Our network with `relu2` is theirs with the activation `relu` and gate = up. No Llama-like class has it, so
the matrix is written twice.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.interop.operations import FoldEqual, FoldZero
from pipeline.interop.table import Entry, Family, Key, Ours, Rule, Theirs, linear, same

_LAYER = "backbone.layer."


class _LlamaLike(Family):
    backbone: ClassVar[str] = "Decoder"
    prefix: ClassVar[str] = "model."

    def keys(self) -> list[Entry]:
        """Return sizes, activation, and what the three have in common."""
        return [
            Key("vocab_size", "vocab_size"),
            Key("hidden_size", _LAYER + "d_model"),
            Key("intermediate_size", _LAYER + "d_ff"),
            Key("num_hidden_layers", "backbone.n_layers"),
            Key("num_attention_heads", _LAYER + "n_heads"),
            Key("num_key_value_heads", _LAYER + "n_kv_heads"),
            Key("head_dim", _LAYER + "d_head"),
            Key("max_position_embeddings", "backbone.max_seq_len"),
            Key("rms_norm_eps", _LAYER + "norm_eps"),
            Key("rope_parameters.rope_theta", "backbone.position.base"),
            Theirs("rope_parameters.rope_type", "default"),
            Key("tie_word_embeddings", "head.tied"),
            Key(
                "hidden_act",
                _LAYER + "activation",
                {"silu": "swiglu", "relu": "relu2", "gelu_pytorch_tanh": "geglu"},
            ),
            Ours("backbone.position._target_", "modules.positions.Rotary"),
            Ours("backbone.layer._target_", "modules.layers.LayerSpec"),
            Ours(_LAYER + "norm", "rms"),
            Ours(_LAYER + "norm_first", True),
            Ours(_LAYER + "embedding_norm", False),
            Ours(_LAYER + "bias", False),
            Ours("backbone.n_token_types", 0),
            Ours("head._target_", "modules.heads.LMHead"),
            Ours("head.softcap", None),
            Ours("head.bias", False),
        ]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors."""
        rules = [
            same("backbone.embedding.weight", "model.embed_tokens.weight"),
            same("backbone.stack.norm.weight", "model.norm.weight"),
        ]
        if not ours["head.tied"]:
            rules.append(same("head.own_embedding.weight", "lm_head.weight"))
        for i in range(ours["backbone.n_layers"]):
            rules += self._layer(f"backbone.stack.layers.{i}.", f"model.layers.{i}.", ours)
        return rules

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied head, and the rotary frequencies that old files contain."""
        layers = range(ours["backbone.n_layers"])
        frequencies = tuple(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in layers)
        return (*frequencies, "lm_head.weight") if ours["head.tied"] else frequencies

    def _layer(self, mine: str, theirs: str, ours: Mapping[str, Any]) -> list[Rule]:
        attention, network = f"{theirs}self_attn.", f"{theirs}mlp."
        rules = [
            same(f"{mine}self_attn_norm.weight", f"{theirs}input_layernorm.weight"),
            same(f"{mine}ffn_norm.weight", f"{theirs}post_attention_layernorm.weight"),
            same(f"{mine}self_attn.out_proj.weight", f"{attention}o_proj.weight"),
            same(f"{mine}ffn.down_proj.weight", f"{network}down_proj.weight"),
        ]
        for name in ("q_proj", "k_proj", "v_proj"):
            rules += linear(f"{mine}self_attn.{name}", attention + name, bias=ours[_LAYER + "qkv_bias"])
        if ours[_LAYER + "qk_norm"]:
            rules += [
                same(f"{mine}self_attn.{name}.weight", f"{attention}{name}.weight")
                for name in ("q_norm", "k_norm")
            ]
        gate, up = f"{network}gate_proj.weight", f"{network}up_proj.weight"
        if ours[_LAYER + "activation"] == "relu2":
            return [*rules, Rule((f"{mine}ffn.up_proj.weight",), (gate, up), [FoldEqual()])]
        return [*rules, same(f"{mine}ffn.gate_proj.weight", gate), same(f"{mine}ffn.up_proj.weight", up)]


class Llama(_LlamaLike):
    """Touvron et al. 2023, "LLaMA"; SmolLM2 has the same architecture."""

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    def keys(self) -> list[Entry]:
        """Return the keys: no QK-norm, no biases."""
        return [
            *super().keys(),
            Ours(_LAYER + "qk_norm", False),
            Ours(_LAYER + "qkv_bias", False),
            Theirs("attention_bias", False),
            Theirs("mlp_bias", False),
        ]


class Qwen2(_LlamaLike):
    """Yang et al. 2024, "Qwen2 Technical Report": biases of queries, keys and values."""

    model_type: ClassVar[str] = "qwen2"
    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    def keys(self) -> list[Entry]:
        """Return the keys: biases of queries, keys and values, and no QK-norm."""
        return [
            *super().keys(),
            Ours(_LAYER + "qk_norm", False),
            Ours(_LAYER + "qkv_bias", True),
            Theirs("use_sliding_window", False),
        ]


class Qwen3(_LlamaLike):
    """Yang et al. 2025, "Qwen3 Technical Report": QK-norm, optional biases. Our default decoder is one.

    Their biases include one of the output projection, which must be zero.
    """

    model_type: ClassVar[str] = "qwen3"
    architecture: ClassVar[str] = "Qwen3ForCausalLM"

    def keys(self) -> list[Entry]:
        """Return the keys: QK-norm, and biases of queries, keys and values or none."""
        return [
            *super().keys(),
            Ours(_LAYER + "qk_norm", True),
            Key("attention_bias", _LAYER + "qkv_bias"),
            Theirs("use_sliding_window", False),
        ]

    def _layer(self, mine: str, theirs: str, ours: Mapping[str, Any]) -> list[Rule]:
        rules = super()._layer(mine, theirs, ours)
        if ours[_LAYER + "qkv_bias"]:
            zero = FoldZero([ours[_LAYER + "d_model"]])
            rules.append(Rule((), (f"{theirs}self_attn.o_proj.bias",), [zero]))
        return rules

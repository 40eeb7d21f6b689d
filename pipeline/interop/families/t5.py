"""T5 1.1: an encoder-decoder with RMSNorm before each block, relative positions and a gated network."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.interop.operations import FoldFactor
from pipeline.interop.table import Entry, Family, Key, Ours, Rule, Theirs, Values, same

_LAYER = "backbone.layer."
_POSITIONS = "modules.positions."


class T5(Family):
    """Raffel et al. 2020, "T5", in its version 1.1 (Shazeer 2020, "GLU Variants").

    T5 does not divide scores by the square root of the head size; the factor is folded into the queries.
    """

    model_type: ClassVar[str] = "t5"
    architecture: ClassVar[str] = "T5ForConditionalGeneration"
    backbone: ClassVar[str] = "EncoderDecoder"

    def keys(self) -> list[Entry]:
        """Return sizes; encoder and decoder each have their own relative positions."""
        relative = [
            entry
            for side in ("encoder", "decoder")
            for entry in (
                Ours(f"backbone.position.{side}._target_", _POSITIONS + "RelativeBias"),
                Ours(f"backbone.position.{side}.both_sides", side == "encoder"),
                Key("num_heads", f"backbone.position.{side}.n_heads"),
                Key("relative_attention_num_buckets", f"backbone.position.{side}.n_buckets"),
                Key("relative_attention_max_distance", f"backbone.position.{side}.max_distance"),
            )
        ]
        return [
            Key("vocab_size", "vocab_size"),
            Key("d_model", _LAYER + "d_model"),
            Key("d_kv", _LAYER + "d_head"),
            Key("d_ff", _LAYER + "d_ff"),
            Key("num_decoder_layers", "backbone.n_layers"),
            Key("num_layers", "backbone.n_encoder_layers"),
            Key("num_heads", _LAYER + "n_heads"),
            Key("layer_norm_epsilon", _LAYER + "norm_eps"),
            Key("feed_forward_proj", _LAYER + "activation", {"gated-gelu": "geglu", "gated-silu": "swiglu"}),
            Key("dropout_rate", _LAYER + "dropout"),
            Theirs("scale_decoder_outputs", False),
            Ours("backbone.max_seq_len", 512),
            Ours("backbone.position._target_", _POSITIONS + "PerSide"),
            *relative,
            Ours("backbone.layer._target_", "modules.layers.LayerSpec"),
            Ours(_LAYER + "norm", "rms"),
            Ours(_LAYER + "norm_first", True),
            Ours(_LAYER + "embedding_norm", False),
            Ours(_LAYER + "bias", False),
            Ours(_LAYER + "qkv_bias", False),
            Ours(_LAYER + "qk_norm", False),
            Ours("backbone.tied_embeddings", True),
            Ours("head._target_", "modules.heads.LMHead"),
            Ours("head.softcap", None),
            Ours("head.bias", False),
            Ours("head.tied", False),
        ]

    def to_theirs(self, ours: Mapping[str, Any]) -> Values:
        """Return the configuration; a key stops `transformers` from scaling states before the head."""
        return super().to_theirs(ours) | {"tie_word_embeddings": False}

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors."""
        rules = [
            same("backbone.embedding.weight", "shared.weight"),
            same("head.own_embedding.weight", "lm_head.weight"),
        ]
        for side, n_layers in (
            ("encoder", ours["backbone.n_encoder_layers"]),
            ("decoder", ours["backbone.n_layers"]),
        ):
            bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            rules += [
                same(f"backbone.{side}.norm.weight", f"{side}.final_layer_norm.weight"),
                same(f"backbone.position.{side}.bucket_embedding.weight", bias),
            ]
            for i in range(n_layers):
                rules += self._layer(f"backbone.{side}.layers.{i}.", f"{side}.block.{i}.layer.", side, ours)
        return rules

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied embeddings."""
        return ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

    def _layer(self, mine: str, theirs: str, side: str, ours: Mapping[str, Any]) -> list[Rule]:
        scale = FoldFactor(math.sqrt(ours[_LAYER + "d_head"]))
        blocks = {"self_attn": "SelfAttention"} | (
            {"cross_attn": "EncDecAttention"} if side == "decoder" else {}
        )
        rules = []
        for number, (block, name) in enumerate(blocks.items()):
            rules += [
                same(f"{mine}{block}_norm.weight", f"{theirs}{number}.layer_norm.weight"),
                same(f"{mine}{block}.q_proj.weight", f"{theirs}{number}.{name}.q.weight", scale),
                same(f"{mine}{block}.k_proj.weight", f"{theirs}{number}.{name}.k.weight"),
                same(f"{mine}{block}.v_proj.weight", f"{theirs}{number}.{name}.v.weight"),
                same(f"{mine}{block}.out_proj.weight", f"{theirs}{number}.{name}.o.weight"),
            ]
        network = f"{theirs}{len(blocks)}."
        return [
            *rules,
            same(f"{mine}ffn_norm.weight", f"{network}layer_norm.weight"),
            same(f"{mine}ffn.gate_proj.weight", f"{network}DenseReluDense.wi_0.weight"),
            same(f"{mine}ffn.up_proj.weight", f"{network}DenseReluDense.wi_1.weight"),
            same(f"{mine}ffn.down_proj.weight", f"{network}DenseReluDense.wo.weight"),
        ]

"""BERT and RoBERTa: encoders with LayerNorm after each block, learned positions and token types."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.interop.operations import FoldOffset, FoldTypeZero
from pipeline.interop.table import Entry, Family, Key, Ours, Rule, Theirs, linear, same

_LAYER = "backbone.layer."
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}


class Bert(Family):
    """Devlin et al. 2019, "BERT"; MiniLM has the same architecture."""

    model_type: ClassVar[str] = "bert"
    architecture: ClassVar[str] = "BertForMaskedLM"
    backbone: ClassVar[str] = "Encoder"
    prefix: ClassVar[str] = "bert."
    #: The names of the head's tensors.
    dense: ClassVar[str] = "cls.predictions.transform.dense"
    norm: ClassVar[str] = "cls.predictions.transform.LayerNorm"
    bias: ClassVar[str] = "cls.predictions.bias"
    decoder: ClassVar[str] = "cls.predictions.decoder"
    unused: ClassVar[tuple[str, ...]] = (
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    )
    #: The number of leading rows of their position table that no token uses.
    offset: ClassVar[int] = 0

    def keys(self) -> list[Entry]:
        """Return sizes and activation."""
        return [
            Key("vocab_size", "vocab_size"),
            Key("hidden_size", _LAYER + "d_model"),
            Key("intermediate_size", _LAYER + "d_ff"),
            Key("num_hidden_layers", "backbone.n_layers"),
            Key("num_attention_heads", _LAYER + "n_heads"),
            Key("layer_norm_eps", _LAYER + "norm_eps"),
            Key("layer_norm_eps", "head.norm_eps"),
            Key("hidden_size", "backbone.position.d_model"),
            Key("max_position_embeddings", "backbone.max_seq_len", offset=self.offset),
            Key("max_position_embeddings", "backbone.position.max_seq_len", offset=self.offset),
            Key("type_vocab_size", "backbone.n_token_types", offset=1),
            Key(("hidden_dropout_prob", "attention_probs_dropout_prob"), _LAYER + "dropout"),
            Key("hidden_act", _LAYER + "activation", _ACTIVATIONS),
            Key("hidden_act", "head.activation", _ACTIVATIONS),
            Key("tie_word_embeddings", "head.tied"),
            Theirs("is_decoder", False),
            Theirs("add_cross_attention", False),
            Ours("backbone.position._target_", "modules.positions.Learned"),
            Ours("backbone.layer._target_", "modules.layers.LayerSpec"),
            Ours(_LAYER + "norm", "layer"),
            Ours(_LAYER + "norm_first", False),
            Ours(_LAYER + "embedding_norm", True),
            Ours(_LAYER + "bias", True),
            Ours(_LAYER + "qkv_bias", True),
            Ours(_LAYER + "qk_norm", False),
            Ours("head._target_", "modules.heads.TransformedLMHead"),
            Ours("head.softcap", None),
            Ours("head.bias", True),
        ]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors."""
        table = f"{self.prefix}embeddings."
        types = ["backbone.type_embedding.weight"] if ours["backbone.n_token_types"] else []
        rules = [
            same("backbone.embedding.weight", f"{table}word_embeddings.weight"),
            Rule(
                ("backbone.position.embedding.weight", *types),
                (f"{table}position_embeddings.weight", f"{table}token_type_embeddings.weight"),
                [FoldOffset(self.offset), FoldTypeZero()],
            ),
            *linear("backbone.embedding_norm", f"{table}LayerNorm"),
            *linear("head.dense", self.dense),
            *linear("head.norm", self.norm),
            same("head.bias", self.bias),
        ]
        if not ours["head.tied"]:
            rules.append(same("head.own_embedding.weight", f"{self.decoder}.weight"))
        for i in range(ours["backbone.n_layers"]):
            rules += self._layer(f"backbone.stack.layers.{i}.", f"{self.prefix}encoder.layer.{i}.")
        return rules

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied head, its duplicated bias, and the position ids that old files contain."""
        names = (f"{self.decoder}.bias", f"{self.prefix}embeddings.position_ids")
        return (*names, *([f"{self.decoder}.weight"] if ours["head.tied"] else []))

    def _layer(self, mine: str, theirs: str) -> list[Rule]:
        pairs = {
            "self_attn.q_proj": "attention.self.query",
            "self_attn.k_proj": "attention.self.key",
            "self_attn.v_proj": "attention.self.value",
            "self_attn.out_proj": "attention.output.dense",
            "self_attn_norm": "attention.output.LayerNorm",
            "ffn.up_proj": "intermediate.dense",
            "ffn.down_proj": "output.dense",
            "ffn_norm": "output.LayerNorm",
        }
        return [rule for a, b in pairs.items() for rule in linear(mine + a, theirs + b)]


class Roberta(Bert):
    """Liu et al. 2019, "RoBERTa": like BERT, but positions start at row 2, and there is one token type."""

    model_type: ClassVar[str] = "roberta"
    architecture: ClassVar[str] = "RobertaForMaskedLM"
    prefix: ClassVar[str] = "roberta."
    unused: ClassVar[tuple[str, ...]] = ("roberta.pooler.dense.weight", "roberta.pooler.dense.bias")
    dense: ClassVar[str] = "lm_head.dense"
    norm: ClassVar[str] = "lm_head.layer_norm"
    bias: ClassVar[str] = "lm_head.bias"
    decoder: ClassVar[str] = "lm_head.decoder"
    offset: ClassVar[int] = 2

    def keys(self) -> list[Entry]:
        """Return the keys of BERT; positions are counted from the padding token, whose id is 1."""
        return [*super().keys(), Theirs("pad_token_id", 1)]

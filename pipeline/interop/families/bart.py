"""BART and Marian: encoder-decoders with LayerNorm after each block, and learned or sinusoidal positions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from modules.positions import sinusoids
from pipeline.interop.operations import FoldEqual, FoldOffset, FoldTable, Operation, Permute, Reshape
from pipeline.interop.table import Entry, Family, Key, Ours, Rule, Theirs, linear, same

_LAYER = "backbone.layer."
_POSITIONS = "modules.positions."
_TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


class _Bart(Family):
    backbone: ClassVar[str] = "EncoderDecoder"
    prefix: ClassVar[str] = "model."

    def keys(self) -> list[Entry]:
        """Return sizes and activation, which are the same in encoder and decoder."""
        return [
            Key(("vocab_size", "decoder_vocab_size"), "vocab_size"),
            Key("d_model", _LAYER + "d_model"),
            Key(("encoder_ffn_dim", "decoder_ffn_dim"), _LAYER + "d_ff"),
            Key("decoder_layers", "backbone.n_layers"),
            Key("encoder_layers", "backbone.n_encoder_layers"),
            Key(("encoder_attention_heads", "decoder_attention_heads"), _LAYER + "n_heads"),
            Key(
                "activation_function",
                _LAYER + "activation",
                {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu", "gelu_new": "gelu_tanh"},
            ),
            Key(("dropout", "attention_dropout"), _LAYER + "dropout"),
            Theirs("tie_word_embeddings", True),
            Ours("backbone.layer._target_", "modules.layers.LayerSpec"),
            Ours(_LAYER + "norm", "layer"),
            Ours(_LAYER + "norm_eps", 1e-5),
            Ours(_LAYER + "norm_first", False),
            Ours(_LAYER + "bias", True),
            Ours(_LAYER + "qkv_bias", True),
            Ours(_LAYER + "qk_norm", False),
            Ours("backbone.tied_embeddings", True),
            Ours("head._target_", "modules.heads.LMHead"),
            Ours("head.softcap", None),
            Ours("head.bias", True, also=(False,)),
            Ours("head.tied", True),
        ]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors except the positions."""
        rules = [same("backbone.embedding.weight", "model.shared.weight", *self.residual(ours, 1))]
        if ours["head.bias"]:
            size = ours["vocab_size"]
            rules.append(same("head.bias", "final_logits_bias", Reshape((1, size), (size,))))
        for side, n_layers in (
            ("encoder", ours["backbone.n_encoder_layers"]),
            ("decoder", ours["backbone.n_layers"]),
        ):
            for i in range(n_layers):
                rules += self._layer(f"backbone.{side}.layers.{i}.", f"model.{side}.layers.{i}.", side, ours)
        return rules

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied embeddings and, if the model has no head bias, the untrained bias of the logits."""
        tied = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
        return tied if ours["head.bias"] else (*tied, "final_logits_bias")

    def residual(self, ours: Mapping[str, Any], *dims: int) -> list[Operation]:
        """Return operations on axes of the residual stream; none by default."""
        return []

    def _layer(self, mine: str, theirs: str, side: str, ours: Mapping[str, Any]) -> list[Rule]:
        rules = []
        blocks = {"self_attn": "self_attn"} | ({"cross_attn": "encoder_attn"} if side == "decoder" else {})
        for block, name in blocks.items():
            rules += self._norm(f"{mine}{block}_norm", f"{theirs}{name}_layer_norm", ours)
            for part in ("q_proj", "k_proj", "v_proj"):
                rules += self._from_residual(f"{mine}{block}.{part}", f"{theirs}{name}.{part}", ours)
            rules += self._to_residual(f"{mine}{block}.out_proj", f"{theirs}{name}.out_proj", ours)
        rules += self._norm(f"{mine}ffn_norm", f"{theirs}final_layer_norm", ours)
        rules += self._from_residual(f"{mine}ffn.up_proj", f"{theirs}fc1", ours)
        return rules + self._to_residual(f"{mine}ffn.down_proj", f"{theirs}fc2", ours)

    def _norm(self, mine: str, theirs: str, ours: Mapping[str, Any]) -> list[Rule]:
        return [
            same(f"{mine}.{part}", f"{theirs}.{part}", *self.residual(ours, 0)) for part in ("weight", "bias")
        ]

    def _from_residual(self, mine: str, theirs: str, ours: Mapping[str, Any]) -> list[Rule]:
        return [
            same(f"{mine}.weight", f"{theirs}.weight", *self.residual(ours, 1)),
            same(f"{mine}.bias", f"{theirs}.bias"),
        ]

    def _to_residual(self, mine: str, theirs: str, ours: Mapping[str, Any]) -> list[Rule]:
        return self._norm(mine, theirs, ours)


class Bart(_Bart):
    """Lewis et al. 2020, "BART": learned positions on each side, and a norm after the embeddings."""

    model_type: ClassVar[str] = "bart"
    architecture: ClassVar[str] = "BartForConditionalGeneration"

    def keys(self) -> list[Entry]:
        """Return keys for learned positions on each side."""
        return [
            *super().keys(),
            Theirs("scale_embedding", False),
            Key("max_position_embeddings", "backbone.max_seq_len"),
            Key("d_model", "backbone.position.encoder.d_model"),
            Key("d_model", "backbone.position.decoder.d_model"),
            Key("max_position_embeddings", "backbone.position.encoder.max_seq_len"),
            Key("max_position_embeddings", "backbone.position.decoder.max_seq_len"),
            Ours("backbone.position._target_", _POSITIONS + "PerSide"),
            Ours("backbone.position.encoder._target_", _POSITIONS + "Learned"),
            Ours("backbone.position.decoder._target_", _POSITIONS + "Learned"),
            Ours(_LAYER + "embedding_norm", True),
        ]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors; position tables begin with two rows that no token uses."""
        rules = super().rules(ours)
        for side, norm in (("encoder", "embedding_norm"), ("decoder", "decoder_embedding_norm")):
            table = f"model.{side}.embed_positions.weight"
            rules.append(same(f"backbone.position.{side}.embedding.weight", table, FoldOffset(2)))
            rules += linear(f"backbone.{norm}", f"model.{side}.layernorm_embedding")
        return rules


class Marian(_Bart):
    """Junczys-Dowmunt et al. 2018, "Marian": fixed sinusoidal positions, and scaled embeddings.

    Marian stores all sines before all cosines, and our sinusoids alternate. Hence the features of the
    residual stream are reordered in every tensor that reads or writes it.
    """

    model_type: ClassVar[str] = "marian"
    architecture: ClassVar[str] = "MarianMTModel"
    position: ClassVar[str] = "Sinusoidal"

    def keys(self) -> list[Entry]:
        """Return keys for scaled embeddings without a norm."""
        return [
            *super().keys(),
            Theirs("scale_embedding", True),
            Theirs("share_encoder_decoder_embeddings", True),
            Key("max_position_embeddings", "backbone.max_seq_len"),
            Key("d_model", "backbone.position.d_model"),
            Ours("backbone.position._target_", _POSITIONS + self.position),
            Ours(_LAYER + "embedding_norm", False),
        ]

    def fits(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Any]) -> bool:
        """Return whether positions that the file may contain are the sinusoidal ones."""
        fixed = sinusoids(torch.arange(ours["backbone.max_seq_len"])[None], ours[_LAYER + "d_model"])[0]
        (order,) = self.residual(ours, 1)
        (expected,) = order.backward([fixed])
        tables = [theirs[name].float() for name in _TABLES if name in theirs]
        return all(
            table.shape == expected.shape and torch.allclose(table, expected, atol=1e-5) for table in tables
        )

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied tensors and the fixed positions."""
        return (*super().derived(ours), *_TABLES)

    def hidden_to_theirs(self, hidden: Tensor, ours: Mapping[str, Any]) -> Tensor:
        """Reorder hidden states to have all sines before all cosines."""
        (order,) = self.residual(ours, hidden.dim() - 1)
        return order.backward([hidden])[0]

    def residual(self, ours: Mapping[str, Any], *dims: int) -> list[Operation]:
        """Reorder: sine 0, cosine 0, sine 1, ... of ours are features 0, D/2, 1, ... of theirs."""
        half = ours[_LAYER + "d_model"] // 2
        return [Permute([i // 2 + i % 2 * half for i in range(2 * half)], dims)]


class MarianWithTable(Marian):
    """Models with learned positions in addition to the sinusoidal ones, as in our tutorial architecture.

    Both are written as one position table, which `transformers` reads from a file like any other tensor.
    """

    position: ClassVar[str] = "SinusoidalPlusLearned"

    def fits(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Any]) -> bool:
        """Return whether the file contains position tables."""
        return all(name in theirs for name in _TABLES)

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the tied tensors."""
        return super(Marian, self).derived(ours)

    def keys(self) -> list[Entry]:
        """Return the keys, including the length of the position table."""
        return [*super().keys(), Key("max_position_embeddings", "backbone.position.max_seq_len")]

    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the rules of all tensors."""
        positions = torch.arange(ours["backbone.position.max_seq_len"])[None]
        fixed = sinusoids(positions, ours[_LAYER + "d_model"])[0]
        steps = [FoldEqual(), *self.residual(ours, 1), FoldTable(fixed)]
        return [*super().rules(ours), Rule(("backbone.position.embedding.weight",), _TABLES, steps)]

"""Encoder, Decoder, EncoderDecoder: three architectures built from one stack of layers.

All take a batch of integer tensors and return hidden states. The keys of a batch are `input_ids` (B, T) and,
optionally, `segment_ids` (documents of a packed row: 1, 2, ...; 0 is padding) or `attention_mask` (0 is
padding), `position_ids` (by default counted within each segment), and `token_type_ids` (types of tokens; 0 is
none). For EncoderDecoder there are the same keys with the prefix `decoder_`, except for types.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.cache import KVCache, Memory
from modules.compiling import layer_function
from modules.dropout import Dropout
from modules.errors import ArgumentError
from modules.layers import LayerSpec
from modules.masks import Mask
from modules.positions import Position, Rotation, check_length
from modules.recompute import Recompute

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Tokens:
    """The ids of one side of a batch, the segment that each belongs to, and its position in it."""

    ids: Int[Tensor, "B T"]
    segment_ids: Int[Tensor, "B T"] | None
    position_ids: Int[Tensor, "#B T"]
    type_ids: Int[Tensor, "B T"] | None
    packed: bool

    @classmethod
    def of(cls, batch: Batch, prefix: str = "", cache: KVCache | None = None) -> "_Tokens":
        ids = batch[prefix + "input_ids"]
        packed = prefix + "segment_ids" in batch
        segment_ids = batch.get(prefix + "segment_ids", batch.get(prefix + "attention_mask"))
        if segment_ids is not None:
            segment_ids = segment_ids.long()
        position_ids = batch.get(prefix + "position_ids")
        if cache is not None:
            one_segment = segment_ids is None
            segment_ids = torch.ones_like(ids) if segment_ids is None else segment_ids
            position_ids = cache.next_position_ids(segment_ids) if position_ids is None else position_ids
            cache.append(segment_ids, position_ids, one_segment=one_segment)
        elif position_ids is None:
            position_ids = _position_ids(ids, segment_ids)
        return cls(ids, segment_ids, position_ids, batch.get(prefix + "token_type_ids"), packed)

    def self_mask(self, position: Position, *, causal: bool, cache: KVCache | None = None) -> Mask:
        if cache is not None and self.segment_ids is not None:
            mask = Mask.continued(self.segment_ids, cache.segment_ids, one_segment=cache.one_segment)
            return mask.with_bias(position.bias(self.position_ids, cache.position_ids))
        mask = Mask.past() if causal else Mask()
        if self.segment_ids is not None:
            mask = mask & Mask.segments(self.segment_ids)
        return mask.with_bias(position.bias(self.position_ids, self.position_ids))


class Stack(nn.Module):
    """A sequence of layers, with a final norm if the layers are pre-norm.

    `recompute` is the activation checkpointing of the layers; `compiled`, whether training compiles them.
    """

    recompute: Recompute = "none"
    compiled: bool = False

    def __init__(self, layer: LayerSpec, n_layers: int, *, cross: bool = False) -> None:
        super().__init__()
        if n_layers < 1:
            raise ArgumentError(f"n_layers is {n_layers}", "at least 1", "give the number of layers")
        self.layers = nn.ModuleList(layer.build(cross=cross) for _ in range(n_layers))
        self.norm = layer.build_norm() if layer.norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Mask,
        memory_mask: Mask | None = None,
        rotation: Rotation | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Apply all layers with the same masks and rotation."""
        for i, layer in enumerate(self.layers):
            x = layer_function(layer, self.recompute, compiled=self.compiled)(
                x,
                memory,
                mask=mask,
                memory_mask=memory_mask,
                rotation=rotation,
                cache=cache.layers[i] if cache is not None else None,
                memory_cache=cache.memory_layers[i] if cache is not None and memory is not None else None,
            )
        out: Tensor = self.norm(x)
        return out


def set_recompute(model: nn.Module, recompute: Recompute) -> None:
    """Set the activation checkpointing of all layers of `model`."""
    for part in model.modules():
        if isinstance(part, Stack):
            part.recompute = recompute


def set_compiled(model: nn.Module, compiled: bool) -> None:
    """Set whether the layers of `model` are compiled in training."""
    for part in model.modules():
        if isinstance(part, Stack):
            part.compiled = compiled


class Transformer(nn.Module):
    """The base class of the three architectures: embedding, positions and sizes.

    With `n_token_types`, an embedding of each token's type (1, 2, ...) is added (Devlin et al. 2019, "BERT",
    figure 2: the segment embeddings); type 0 adds nothing.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        max_seq_len: int,
        layer: LayerSpec,
        position: Position,
        n_token_types: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("vocab_size", vocab_size, 1),
            ("max_seq_len", max_seq_len, 1),
            ("n_token_types", n_token_types, 0),
        ):
            if value < least:
                raise ArgumentError(f"{name} is {value}", f"at least {least}", "use a larger number")
        position.check(d_model=layer.d_model, n_heads=layer.n_heads, head_size=layer.head_size)
        for side in (position, position.of_decoder):
            check_length(max_seq_len, side)
        self.d_model = layer.d_model
        self.max_seq_len = max_seq_len
        self.head_size = layer.head_size
        self.embedding = nn.Embedding(vocab_size, layer.d_model)
        self.type_embedding = nn.Embedding(n_token_types, layer.d_model) if n_token_types else None
        self.position = position
        self.embedding_norm = layer.build_norm() if layer.embedding_norm else nn.Identity()
        self.dropout = Dropout(layer.dropout)

    @property
    def output_embedding(self) -> nn.Embedding:
        """The embedding of the tokens that are predicted from the hidden states, which a tied head uses."""
        return self.embedding

    def _embed(
        self, tokens: _Tokens, embedding: nn.Embedding, position: Position, norm: nn.Module
    ) -> Float[Tensor, "B T D"]:
        """Add embeddings, positions and types, with dropout on the sum (Vaswani et al. 2017, section 5.4)."""
        x = position.embed(embedding(tokens.ids), tokens.position_ids)
        if self.type_embedding is not None and tokens.type_ids is not None:
            nothing_first = F.pad(self.type_embedding.weight, (0, 0, 1, 0))
            x = x + F.embedding(tokens.type_ids, nothing_first)
        dropped: Tensor = self.dropout(norm(x))
        return dropped

    def _embed_input(self, tokens: _Tokens) -> Float[Tensor, "B T D"]:
        return self._embed(tokens, self.embedding, self.position, self.embedding_norm)

    def _rotation(self, tokens: _Tokens, position: Position) -> Rotation | None:
        return position.rotation(tokens.position_ids, self.head_size)


class _OneStack(Transformer):
    """The base class of Encoder and Decoder: a single stack, with token types."""

    def __init__(
        self,
        vocab_size: int,
        *,
        n_layers: int,
        max_seq_len: int,
        layer: LayerSpec,
        position: Position,
        n_token_types: int = 0,
    ) -> None:
        super().__init__(
            vocab_size, max_seq_len=max_seq_len, layer=layer, position=position, n_token_types=n_token_types
        )
        self.stack = Stack(layer, n_layers)


class Encoder(_OneStack):
    """Each token attends to its whole document: for masked language modelling and classification.

    Source: Devlin et al. 2019, "BERT", section 3; the layers are those of Vaswani et al. 2017, section 3.1.
    """

    def forward(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """Return the hidden states of `input_ids`."""
        tokens = _Tokens.of(batch)
        mask = tokens.self_mask(self.position, causal=False)
        rotation = self._rotation(tokens, self.position)
        hidden: Tensor = self.stack(self._embed_input(tokens), mask=mask, rotation=rotation)
        return hidden


class Decoder(_OneStack):
    """Each token attends to the tokens before it in its document: for generating text.

    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.1.
    """

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Float[Tensor, "B T D"]:
        """Return the hidden states of `input_ids`; with a cache, these continue the cached tokens."""
        tokens = _Tokens.of(batch, cache=cache)
        mask = tokens.self_mask(self.position, causal=True, cache=cache)
        x, rotation = self._embed_input(tokens), self._rotation(tokens, self.position)
        hidden: Tensor = self.stack(x, mask=mask, rotation=rotation, cache=cache)
        return hidden

    def new_cache(self, batch_size: int, max_tokens: int, *, max_real_tokens: int | None = None) -> KVCache:
        """Return an empty cache for at most `max_tokens` tokens per row, including padding.

        At most `max_real_tokens` of them are not padding; None: all.
        """
        return _new_cache(self, self.stack, batch_size, max_tokens, max_real_tokens)


class EncoderDecoder(Transformer):
    """An encoder, and a decoder that attends to its output: for text-to-text tasks.

    Encoder and decoder share the positions, unless these are `PerSide`. With `tied_embeddings` they share the
    embedding (section 3.4 of the source); otherwise the decoder has its own, for languages with few tokens in
    common. It also has its own with `target_vocab_size`, if its tokens are those of another vocabulary.

    Source: Vaswani et al. 2017, section 3.1 and figure 1.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        n_layers: int,
        max_seq_len: int,
        layer: LayerSpec,
        position: Position,
        n_encoder_layers: int | None = None,
        tied_embeddings: bool = True,
        target_vocab_size: int | None = None,
    ) -> None:
        super().__init__(vocab_size, max_seq_len=max_seq_len, layer=layer, position=position)
        shared = tied_embeddings and target_vocab_size is None
        n_targets = vocab_size if target_vocab_size is None else target_vocab_size
        self.target_embedding = None if shared else nn.Embedding(n_targets, layer.d_model)
        self.decoder_embedding_norm = layer.build_norm() if layer.embedding_norm else nn.Identity()
        self.encoder = Stack(layer, n_layers if n_encoder_layers is None else n_encoder_layers)
        self.decoder = Stack(layer, n_layers, cross=True)

    @property
    def output_embedding(self) -> nn.Embedding:
        """The embedding of the decoder."""
        return self.embedding if self.target_embedding is None else self.target_embedding

    def encode(self, batch: Batch) -> Float[Tensor, "B S D"]:
        """Return the memory: the hidden states of `input_ids`."""
        source = _Tokens.of(batch)
        mask = source.self_mask(self.position, causal=False)
        rotation = self._rotation(source, self.position)
        memory: Tensor = self.encoder(self._embed_input(source), mask=mask, rotation=rotation)
        return memory

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Float[Tensor, "B T D"]:
        """Return the hidden states of `decoder_input_ids`, which attend to earlier ones and to `input_ids`.

        With a cache, `input_ids` are only read at the first call and may be left out later.
        """
        memory = self._memory(batch, cache)
        target = _Tokens.of(batch, "decoder_", cache)
        position = self.position.of_decoder
        hidden: Tensor = self.decoder(
            self._embed(target, self.output_embedding, position, self.decoder_embedding_norm),
            memory.hidden,
            mask=target.self_mask(position, causal=True, cache=cache),
            memory_mask=_memory_mask(target, memory),
            rotation=self._rotation(target, position),
            cache=cache,
        )
        return hidden

    def _memory(self, batch: Batch, cache: KVCache | None) -> Memory:
        if cache is not None and cache.memory is not None:
            return cache.memory
        source = _Tokens.of(batch)
        memory = Memory(self.encode(batch), source.segment_ids, source.packed)
        if cache is not None:
            cache.set_memory(memory)
        return memory

    def new_cache(self, batch_size: int, max_tokens: int, *, max_real_tokens: int | None = None) -> KVCache:
        """Return an empty cache for at most `max_tokens` decoder tokens per row, including padding.

        At most `max_real_tokens` of them are not padding; None: all.
        """
        return _new_cache(self, self.decoder, batch_size, max_tokens, max_real_tokens)


def _position_ids(ids: Int[Tensor, "B T"], segment_ids: Int[Tensor, "B T"] | None) -> Int[Tensor, "#B T"]:
    """Count positions from 0 at the beginning of each segment, so that left padding shifts nothing."""
    steps = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    if segment_ids is None:
        return steps
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return steps - (steps * begins).cummax(dim=1).values


def _memory_mask(target: _Tokens, memory: Memory) -> Mask:
    """Return a mask for the same document if both sides are packed, else for the source without padding."""
    if memory.segment_ids is None:
        return Mask()
    if target.packed and memory.packed and target.segment_ids is not None:
        return Mask.across(target.segment_ids, memory.segment_ids)
    return Mask.memory(memory.segment_ids)


def _new_cache(
    model: Transformer, stack: Stack, batch_size: int, max_tokens: int, max_real_tokens: int | None
) -> KVCache:
    check_length(max_tokens if max_real_tokens is None else max_real_tokens, model.position.of_decoder)
    device = model.embedding.weight.device
    return KVCache(len(stack.layers), batch_size=batch_size, max_tokens=max_tokens, device=device)

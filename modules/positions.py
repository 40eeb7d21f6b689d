"""Position schemes behind one interface, injected into the transformers.

A scheme may act at three places, each a no-op unless it is used: on the embeddings (`embed`), on queries and
keys (`rotation`), or on the attention scores (`bias`). Positions are given, never counted, so that a packed
document starts at 0 in the middle of a row and a left-padded prompt starts at its first real token.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.errors import ArgumentError


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines that rotate queries and keys, computed once per forward pass for all layers.

    The first half of `sin` has its sign turned, so that the second term below is one product.
    """

    cos: Float[Tensor, "#B 1 T K"]
    sin: Float[Tensor, "#B 1 T K"]

    def apply(self, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        """Turn each pair (x[i], x[i + K/2]) by its angle, in float32; the result has the type of `x`."""
        full = x.float()
        other = full.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(full * self.cos, other, self.sin).to(x.dtype)


class Position(nn.Module):
    """The interface of all schemes; by itself, no positions at all.

    `max_tokens` is the number of positions that the scheme can tell apart, None where there is no limit.
    """

    max_tokens: int | None = None

    @property
    def of_decoder(self) -> "Position":
        """The scheme of an encoder-decoder's decoder; by itself, the same one."""
        return self

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse a transformer that this scheme does not fit.

        Raises:
            ArgumentError: with the sizes that do not fit and what to change.
        """

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add positions to the token embeddings."""
        return x

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation | None:
        """The rotation of queries and keys at these positions, or None."""
        return None

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"] | None:
        """What is added to the attention scores of self-attention, or None."""
        return None


def sinusoids(position_ids: Int[Tensor, "#B T"], d_model: int) -> Float[Tensor, "#B T {d_model}"]:
    """Sinusoids of geometrically growing wavelength: sines at even, cosines at odd features.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5:
    PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).
    """
    angles = _angles(position_ids, d_model, base=10000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class Sinusoidal(Position):
    """Fixed sinusoids added to the embeddings; any length, nothing learned.

    The embeddings are first multiplied by sqrt(d_model), so that the sinusoids do not dominate them.

    Source: Vaswani et al. 2017, sections 3.4 (the scale) and 3.5 (the sinusoids).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        if d_model < 2 or d_model % 2:
            raise ArgumentError(f"d_model is {d_model}", "an even number: sines and cosines", "make it even")
        self.d_model = d_model

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse another width than this scheme was made for."""
        _check_width(self.d_model, d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add the sinusoids: x * sqrt(d_model) + PE(position)."""
        return x * math.sqrt(self.d_model) + sinusoids(position_ids, self.d_model).to(x.dtype)


class Learned(Position):
    """One learned vector for each position, added to the embeddings; at most `max_seq_len` positions.

    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1.
    """

    def __init__(self, d_model: int, *, max_seq_len: int) -> None:
        super().__init__()
        if max_seq_len < 1:
            raise ArgumentError(
                f"max_seq_len is {max_seq_len}", "at least 1", "give the longest row's tokens"
            )
        self.d_model = d_model
        self.max_tokens = max_seq_len
        self.embedding = nn.Embedding(max_seq_len, d_model)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse another width than this scheme was made for."""
        _check_width(self.d_model, d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add the vectors: x + P[position].

        Raises:
            ArgumentError: if the rows are longer than the table of positions.
        """
        check_length(x.shape[1], self)
        learned: Tensor = self.embedding(position_ids)
        return x + learned


class SinusoidalPlusLearned(Learned):
    """The tutorial's positions: the fixed sinusoid and a learned vector, both added to the scaled embedding.

    Source: Vaswani et al. 2017, sections 3.4 and 3.5 (fixed); Gehring et al. 2017, section 3.1 (learned).
    """

    def __init__(self, d_model: int, *, max_seq_len: int) -> None:
        super().__init__(d_model, max_seq_len=max_seq_len)
        self.fixed = Sinusoidal(d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add both: x * sqrt(d_model) + PE(position) + P[position]."""
        return super().embed(self.fixed.embed(x, position_ids), position_ids)


class Rotary(Position):
    """Queries and keys rotated by an angle proportional to the position: scores depend only on the distance.

    Source: Su et al. 2021, "RoFormer", section 3.2.2, equations 14 and 15; computed as in equation 34, with
    features paired in halves (i with i + K/2) as in GPT-NeoX and Llama.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        if base <= 1.0:
            raise ArgumentError(f"base is {base}", "more than 1", "use 10000 if in doubt")
        self.base = base

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse an odd head size: features are turned in pairs."""
        if head_size % 2:
            raise ArgumentError(
                f"rotary positions turn pairs of features, but with d_model {d_model} and n_heads "
                f"{n_heads} a head has {head_size}",
                "an even head size",
                "change d_model, n_heads or d_head",
            )

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation:
        """Angles position / base^(2i/K), each used for features i and i + K/2."""
        angles = _angles(position_ids, head_size, base=self.base)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


class ALiBi(Position):
    """Scores lowered in proportion to the distance, by a slope of each head's own; nothing learned.

    In an encoder the distance counts the same to both sides.

    Source: Press et al. 2022, "Train Short, Test Long", section 3; slopes for numbers of heads that are no
    power of two as in the authors' code.
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        if n_heads < 1:
            raise ArgumentError(f"n_heads is {n_heads}", "at least 1", "give the number of heads")
        self.n_heads = n_heads
        self.slopes = alibi_slopes(n_heads)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse another number of heads than there are slopes."""
        if n_heads != self.n_heads:
            raise ArgumentError(
                f"ALiBi was made for {self.n_heads} heads and the layers have {n_heads}",
                "the same number",
                f"set the position's n_heads to {n_heads}",
            )

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"]:
        """-slope[h] * |q - k|."""
        distance = (q_position_ids[:, None, :, None] - k_position_ids[:, None, None, :]).abs()
        slopes = torch.tensor(self.slopes, device=distance.device)
        return distance * -slopes[:, None, None]


class RelativeBias(Position):
    """A learned number for each head and each range of distances, added to the scores; any length.

    Half of the ranges hold one distance each, the others grow up to `max_distance`, and the last one holds
    all beyond. With `both_sides`, distances to the left and to the right have ranges of their own.

    Source: Raffel et al. 2020, "T5", section 2.1; the ranges as in the authors' code.
    """

    def __init__(
        self, n_heads: int, *, n_buckets: int = 32, max_distance: int = 128, both_sides: bool = False
    ) -> None:
        super().__init__()
        sides = 2 if both_sides else 1
        if n_heads < 1 or n_buckets < 2 * sides or max_distance <= n_buckets // sides // 2:
            raise ArgumentError(
                f"n_heads {n_heads}, n_buckets {n_buckets} and max_distance {max_distance} do not fit",
                f"at least 1 head, {2 * sides} buckets and a distance beyond those with a bucket of "
                "their own",
                "use 32 buckets and a distance of 128",
            )
        self.n_heads = n_heads
        self.n_buckets = n_buckets
        self.max_distance = max_distance
        self.both_sides = both_sides
        self.bucket_embedding = nn.Embedding(n_buckets, n_heads)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse another number of heads than the table has columns."""
        if n_heads != self.n_heads:
            raise ArgumentError(
                f"RelativeBias was made for {self.n_heads} heads and the layers have {n_heads}",
                "the same number",
                f"set the position's n_heads to {n_heads}",
            )

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"]:
        """The table's number of each head for the range that k - q falls into."""
        buckets = self._buckets(k_position_ids[:, None, :] - q_position_ids[:, :, None])
        numbers: Tensor = self.bucket_embedding(buckets)
        return numbers.permute(0, 3, 1, 2)

    def _buckets(self, offset: Int[Tensor, "#B T S"]) -> Int[Tensor, "#B T S"]:
        n = self.n_buckets // 2 if self.both_sides else self.n_buckets
        distance = offset.abs() if self.both_sides else (-offset).clamp_min(0)
        n_exact = n // 2
        growth = (distance.float() / n_exact).log() / math.log(self.max_distance / n_exact)
        far = (n_exact + (growth * (n - n_exact)).long()).clamp_max(n - 1)
        bucket = torch.where(distance < n_exact, distance, far)
        return bucket + n * (offset > 0) if self.both_sides else bucket


class PerSide(Position):
    """One scheme for the encoder and another for the decoder, as in BART and T5."""

    def __init__(self, encoder: Position, decoder: Position) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.max_tokens = encoder.max_tokens

    @property
    def of_decoder(self) -> Position:
        """The decoder's own scheme."""
        return self.decoder

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Refuse what either scheme refuses."""
        self.encoder.check(d_model=d_model, n_heads=n_heads, head_size=head_size)
        self.decoder.check(d_model=d_model, n_heads=n_heads, head_size=head_size)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """The encoder's."""
        return self.encoder.embed(x, position_ids)

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation | None:
        """The encoder's."""
        return self.encoder.rotation(position_ids, head_size)

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"] | None:
        """The encoder's."""
        return self.encoder.bias(q_position_ids, k_position_ids)


def alibi_slopes(n_heads: int) -> list[float]:
    """Give the paper's slopes 2^(-8/n), 2^(-16/n), ...; past a power of two, every other one of the next."""
    whole = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    between = [2.0 ** (-4.0 * (i + 1) / whole) for i in range(0, 2 * whole, 2)]
    return slopes + between[: n_heads - whole]


def check_length(n_tokens: int, position: Position) -> None:
    """Refuse more tokens than a scheme has positions for.

    Raises:
        ArgumentError: with both numbers.
    """
    if position.max_tokens is not None and n_tokens > position.max_tokens:
        raise ArgumentError(
            f"{n_tokens} tokens do not fit {type(position).__name__} positions",
            f"at most {position.max_tokens}",
            "shorten the text, or train with a larger max_seq_len or rotary positions",
        )


def _angles(position_ids: Int[Tensor, "#B T"], size: int, base: float) -> Float[Tensor, "#B T half"]:
    """position / base^(2i/size) for i < size/2, in float32 whatever the autocast.

    Computed, not looked up: a buffer would be lost on the meta device and bind the scheme to a length.
    """
    steps = torch.arange(0, size, 2, device=position_ids.device, dtype=torch.float32)
    return position_ids.unsqueeze(-1).float() * base ** (-steps / size)


def _check_width(own: int, d_model: int) -> None:
    if own != d_model:
        raise ArgumentError(
            f"positions of width {own} meet a transformer of d_model {d_model}",
            "the same width",
            f"set the position's d_model to {d_model}",
        )

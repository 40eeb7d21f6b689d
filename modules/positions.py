"""Position schemes with a common interface, which are passed to the transformers.

A scheme may act on the embeddings (`embed`), on queries and keys (`rotation`) or on the attention scores
(`bias`); the others have no effect. Position ids are passed in, so that a packed document can start at 0 in
the middle of a row and a left-padded prompt at its first real token.
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

    The first half of `sin` is negated, so that the rotation is a sum of two products.
    """

    cos: Float[Tensor, "#B T 1 K"]
    sin: Float[Tensor, "#B T 1 K"]

    def apply(self, x: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H K"]:
        """Rotate each pair (x[i], x[i + K/2]) by its angle, in float32; the result has the type of `x`."""
        full = x.float()
        other = full.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(full * self.cos, other, self.sin).to(x.dtype)

    def undo(self, x: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T H K"]:
        """Rotate float32 back, without autograd: `apply` keeps angles, so this is also its gradient."""
        other = (x * self.sin).roll(x.shape[-1] // 2, dims=-1)
        return other.addcmul_(x, self.cos)


class Position(nn.Module):
    """The interface of all schemes; the base class adds no positions.

    `max_tokens` is the number of positions that the scheme supports; None if there is no limit.
    """

    max_tokens: int | None = None

    @property
    def of_decoder(self) -> "Position":
        """The scheme for the decoder of an encoder-decoder; by default, the same one."""
        return self

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that this scheme fits a transformer of these sizes.

        Raises:
            ArgumentError: the sizes do not fit.
        """

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add positions to the token embeddings."""
        return x

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation | None:
        """Return the rotation of queries and keys at these positions, or None."""
        return None

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"] | None:
        """Return the bias to add to the scores of self-attention, or None."""
        return None


def sinusoids(position_ids: Int[Tensor, "#B T"], d_model: int) -> Float[Tensor, "#B T {d_model}"]:
    """Return sinusoids of geometrically growing wavelength: sines at even, cosines at odd features.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5:
    PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).
    """
    angles = _angles(position_ids, d_model, base=10000.0)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class Sinusoidal(Position):
    """Fixed sinusoids added to the embeddings, for any length; nothing is learned.

    The embeddings are first multiplied by sqrt(d_model), so that the sinusoids do not dominate them.

    Source: Vaswani et al. 2017, sections 3.4 (the scale) and 3.5 (the sinusoids).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        if d_model < 2 or d_model % 2:
            raise ArgumentError(f"d_model is {d_model}", "an even number of 2 or more", "make it even")
        self.d_model = d_model

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that the transformer has the width of this scheme."""
        _check_width(self.d_model, d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add the sinusoids: x * sqrt(d_model) + PE(position)."""
        return x * math.sqrt(self.d_model) + sinusoids(position_ids, self.d_model).to(x.dtype)


class Learned(Position):
    """One learned vector for each position, added to the embeddings, for at most `max_seq_len` positions.

    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", section 3.1.
    """

    def __init__(self, d_model: int, *, max_seq_len: int) -> None:
        super().__init__()
        if max_seq_len < 1:
            raise ArgumentError(
                f"max_seq_len is {max_seq_len}", "at least 1", "set it to the length of the longest row"
            )
        self.d_model = d_model
        self.max_tokens = max_seq_len
        self.embedding = nn.Embedding(max_seq_len, d_model)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that the transformer has the width of this scheme."""
        _check_width(self.d_model, d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add the vectors: x + P[position].

        Raises:
            ArgumentError: the rows are longer than the table of positions.
        """
        check_length(x.shape[1], self)
        learned: Tensor = self.embedding(position_ids)
        return x + learned


class SinusoidalPlusLearned(Learned):
    """The tutorial's positions: a fixed sinusoid and a learned vector, both added to the scaled embedding.

    Source: Vaswani et al. 2017, sections 3.4 and 3.5 (fixed); Gehring et al. 2017, section 3.1 (learned).
    """

    def __init__(self, d_model: int, *, max_seq_len: int) -> None:
        super().__init__(d_model, max_seq_len=max_seq_len)
        self.fixed = Sinusoidal(d_model)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add both: x * sqrt(d_model) + PE(position) + P[position]."""
        return super().embed(self.fixed.embed(x, position_ids), position_ids)


class Rotary(Position):
    """Rotary positions: queries and keys are rotated, so that scores depend on distances only.

    Source: Su et al. 2021, "RoFormer", section 3.2.2, equations 14 and 15; computed as in equation 34, with
    features paired in halves (i with i + K/2) as in GPT-NeoX and Llama.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        if base <= 1.0:
            raise ArgumentError(f"base is {base}", "more than 1", "use 10000")
        self.base = base

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that the head size is even, because features are rotated in pairs."""
        if head_size % 2:
            raise ArgumentError(
                f"rotary positions rotate pairs of features, but with d_model {d_model} and n_heads "
                f"{n_heads} the head size is {head_size}",
                "an even head size",
                "change d_model, n_heads or d_head",
            )

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation:
        """Return rotations by the angles position / base^(2i/K), each for features i and i + K/2."""
        angles = _angles(position_ids, head_size, base=self.base)
        cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


class ALiBi(Position):
    """ALiBi: scores are lowered in proportion to the distance, with a slope per head; nothing is learned.

    In an encoder, distances to both sides count equally.

    Source: Press et al. 2022, "Train Short, Test Long", section 3; for numbers of heads that are not powers
    of two, the slopes follow the authors' code.
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        if n_heads < 1:
            raise ArgumentError(f"n_heads is {n_heads}", "at least 1", "give the number of heads")
        self.n_heads = n_heads
        self.slopes = alibi_slopes(n_heads)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that the layers have as many heads as there are slopes."""
        if n_heads != self.n_heads:
            raise ArgumentError(
                f"ALiBi has {self.n_heads} slopes, but the layers have {n_heads} heads",
                "the same number",
                f"set the position's n_heads to {n_heads}",
            )

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"]:
        """Return -slope[h] * |q - k|."""
        distance = (q_position_ids[:, None, :, None] - k_position_ids[:, None, None, :]).abs()
        slopes = torch.tensor(self.slopes, device=distance.device)
        return distance * -slopes[:, None, None]


class RelativeBias(Position):
    """A learned bias for each head and range of distances, added to the scores, for any length.

    Half of the ranges contain a single distance, the others grow up to `max_distance`, and the last one
    contains all larger distances. With `both_sides`, distances to the left and to the right have separate
    ranges.

    Source: Raffel et al. 2020, "T5", section 2.1; the ranges follow the authors' code.
    """

    def __init__(
        self, n_heads: int, *, n_buckets: int = 32, max_distance: int = 128, both_sides: bool = False
    ) -> None:
        super().__init__()
        sides = 2 if both_sides else 1
        if n_heads < 1 or n_buckets < 2 * sides or max_distance <= n_buckets // sides // 2:
            raise ArgumentError(
                f"n_heads {n_heads}, n_buckets {n_buckets} and max_distance {max_distance} do not fit",
                f"at least 1 head, {2 * sides} buckets, and a max_distance larger than half of the buckets "
                "of a side",
                "use 32 buckets and a distance of 128",
            )
        self.n_heads = n_heads
        self.n_buckets = n_buckets
        self.max_distance = max_distance
        self.both_sides = both_sides
        self.bucket_embedding = nn.Embedding(n_buckets, n_heads)

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that the layers have as many heads as the table."""
        if n_heads != self.n_heads:
            raise ArgumentError(
                f"RelativeBias has {self.n_heads} heads, but the layers have {n_heads}",
                "the same number",
                f"set the position's n_heads to {n_heads}",
            )

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"]:
        """Return the bias of each head for the range that contains k - q."""
        buckets = self._buckets(k_position_ids[:, None, :] - q_position_ids[:, :, None])
        biases: Tensor = self.bucket_embedding(buckets)
        return biases.permute(0, 3, 1, 2)

    def _buckets(self, offset: Int[Tensor, "#B T S"]) -> Int[Tensor, "#B T S"]:
        n = self.n_buckets // 2 if self.both_sides else self.n_buckets
        distance = offset.abs() if self.both_sides else (-offset).clamp_min(0)
        n_exact = n // 2
        growth = (distance.float() / n_exact).log() / math.log(self.max_distance / n_exact)
        far = (n_exact + (growth * (n - n_exact)).long()).clamp_max(n - 1)
        bucket = torch.where(distance < n_exact, distance, far)
        return bucket + n * (offset > 0) if self.both_sides else bucket


class PerSide(Position):
    """Separate schemes for the encoder and the decoder, as in BART and T5."""

    def __init__(self, encoder: Position, decoder: Position) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.max_tokens = encoder.max_tokens

    @property
    def of_decoder(self) -> Position:
        """The scheme of the decoder."""
        return self.decoder

    def check(self, *, d_model: int, n_heads: int, head_size: int) -> None:
        """Check that both schemes fit."""
        self.encoder.check(d_model=d_model, n_heads=n_heads, head_size=head_size)
        self.decoder.check(d_model=d_model, n_heads=n_heads, head_size=head_size)

    def embed(self, x: Float[Tensor, "B T D"], position_ids: Int[Tensor, "#B T"]) -> Float[Tensor, "B T D"]:
        """Add the positions of the encoder."""
        return self.encoder.embed(x, position_ids)

    def rotation(self, position_ids: Int[Tensor, "#B T"], head_size: int) -> Rotation | None:
        """Return the rotation of the encoder."""
        return self.encoder.rotation(position_ids, head_size)

    def bias(
        self, q_position_ids: Int[Tensor, "#B T"], k_position_ids: Int[Tensor, "#B S"]
    ) -> Float[Tensor, "#B H T S"] | None:
        """Return the bias of the encoder."""
        return self.encoder.bias(q_position_ids, k_position_ids)


def alibi_slopes(n_heads: int) -> list[float]:
    """Return 2^(-8/n), 2^(-16/n), ...; beyond a power of two, every other slope of the next power."""
    whole = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    between = [2.0 ** (-4.0 * (i + 1) / whole) for i in range(0, 2 * whole, 2)]
    return slopes + between[: n_heads - whole]


def check_length(n_tokens: int, position: Position) -> None:
    """Check that a scheme has enough positions.

    Raises:
        ArgumentError: there are more tokens than positions.
    """
    if position.max_tokens is not None and n_tokens > position.max_tokens:
        raise ArgumentError(
            f"{n_tokens} tokens exceed the positions of {type(position).__name__}",
            f"at most {position.max_tokens}",
            "shorten the text, or train with a larger max_seq_len or rotary positions",
        )


def _angles(position_ids: Int[Tensor, "#B T"], size: int, base: float) -> Float[Tensor, "#B T half"]:
    """Return position / base^(2i/size) for i < size/2, in float32 even within autocast.

    The angles are computed and not stored: a buffer would be lost on the meta device and limit the length.
    """
    steps = torch.arange(0, size, 2, device=position_ids.device, dtype=torch.float32)
    return position_ids.unsqueeze(-1).float() * base ** (-steps / size)


def _check_width(own: int, d_model: int) -> None:
    if own != d_model:
        raise ArgumentError(
            f"the positions have width {own}, but the transformer has d_model {d_model}",
            "the same width",
            f"set the position's d_model to {d_model}",
        )

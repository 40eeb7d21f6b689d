"""Slow, obvious truths that the fast code is held against."""

import cmath
import itertools
import math

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K) + bias) v, number by number; a query that may see nothing gets zeros.

    q (B, H, T, K), k and v (B, H, S, K), allowed (B, H, T, S), bias (B, H, T, S).
    """
    out = torch.zeros_like(q)
    n_rows, n_heads, n_queries, size = q.shape
    for b in range(n_rows):
        for h in range(n_heads):
            for t in range(n_queries):
                scores = {}
                for s in range(k.shape[2]):
                    if allowed[b, h, t, s]:
                        score = sum(float(q[b, h, t, i]) * float(k[b, h, s, i]) for i in range(size))
                        scores[s] = score / math.sqrt(size) + (
                            0.0 if bias is None else float(bias[b, h, t, s])
                        )
                total = sum(math.exp(score) for score in scores.values())
                for s, score in scores.items():
                    out[b, h, t] += math.exp(score) / total * v[b, h, s]
    return out


def rotary(x: Tensor, position_ids: Tensor, base: float) -> Tensor:
    """Turn each pair (x[i], x[i + K/2]), as a complex number, by position / base^(2i/K)."""
    out = torch.empty_like(x)
    n_rows, n_heads, n_tokens, size = x.shape
    half = size // 2
    for b, h, t, i in itertools.product(range(n_rows), range(n_heads), range(n_tokens), range(half)):
        angle = int(position_ids[b, t]) / base ** (2 * i / size)
        turned = complex(float(x[b, h, t, i]), float(x[b, h, t, i + half])) * cmath.exp(1j * angle)
        out[b, h, t, i], out[b, h, t, i + half] = turned.real, turned.imag
    return out


def sinusoids(n_tokens: int, d_model: int) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) = cos(pos / 10000^(2i/d))."""
    table = torch.empty(n_tokens, d_model)
    for position in range(n_tokens):
        for i in range(d_model // 2):
            angle = position / 10000 ** (2 * i / d_model)
            table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight."""
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight

"""A plain decoder and training loop like nanoGPT's, to measure a step without a framework.

It has learned positions, LayerNorm without biases, GELU, a tied head, PyTorch's fused attention and AdamW,
clipping and autocast. Rows are random tokens.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shapes import Shape


class Attention(nn.Module):
    """Causal self-attention with one product for queries, keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads = shape.n_heads
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.out = nn.Linear(shape.d_model, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.n_heads, -1).transpose(1, 2) for part in self.qkv(x).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward layers with residual connections."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(shape.d_model, bias=False) for _ in range(2))
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.d_model, 4 * shape.d_model, bias=False)
        self.down = nn.Linear(4 * shape.d_model, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + self.attention(self.norms[0](x))
        out: Tensor = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return out


class GPT(nn.Module):
    """The whole decoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.block, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = nn.LayerNorm(shape.d_model, bias=False)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def logits(self, ids: Tensor) -> Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of `labels` (B, T)."""
        return F.cross_entropy(self.logits(ids).flatten(0, 1).float(), labels.flatten())


class PlainLoop:
    """The training loop: `run` makes steps and returns their duration."""

    def __init__(self, shape: Shape, *, bf16: bool, device: torch.device) -> None:
        torch.manual_seed(0)
        self._shape, self._bf16, self._device = shape, bf16, device
        self.model = GPT(shape).to(device)
        decayed = [weight for weight in self.model.parameters() if weight.ndim > 1]
        others = [weight for weight in self.model.parameters() if weight.ndim == 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
        self.rows = torch.randint(shape.vocab_size, (64, shape.block + 1), device=device)

    def run(self, n_steps: int) -> float:
        """Make `n_steps` steps, and return the seconds."""
        _wait(self._device)
        started = time.perf_counter()
        for _ in range(n_steps):
            rows = self.rows[torch.randint(len(self.rows), (self._shape.batch,), device=self._device)]
            self.step(rows[:, :-1], rows[:, 1:])
        _wait(self._device)
        return time.perf_counter() - started

    def step(self, ids: Tensor, labels: Tensor) -> None:
        """Make one step on ids and labels (B, T)."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            loss = self.model(ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()

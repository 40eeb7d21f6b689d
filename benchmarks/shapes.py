"""The shapes of the models with which all peers are measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder and the batch that it is trained on.

    Args:
        block: tokens per row.
        batch: rows per step.
        n_warmup_steps: steps before the timed ones; fewer if a step takes seconds.
    """

    n_layers: int
    d_model: int
    n_heads: int
    block: int
    batch: int
    vocab_size: int = 8192
    n_warmup_steps: int = 2

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.block * self.batch

    @property
    def flops(self) -> float:
        """Operations per step of a GPT-2 with this shape, forward and backward.

        These are 6 per weight and token, and 12 * layers * block * width per token for attention products.
        Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters".
        """
        weights = 12 * self.n_layers * self.d_model**2 + self.vocab_size * self.d_model
        return self.tokens * (6.0 * weights + 12.0 * self.n_layers * self.block * self.d_model)

    def overrides(self) -> list[str]:
        """Return the shape as overrides of Prelude's configuration."""
        return [
            f"size.n_layers={self.n_layers}",
            f"size.d_model={self.d_model}",
            f"size.n_heads={self.n_heads}",
            f"size.max_seq_len={self.block}",
            f"trainer.batch_size={self.batch}",
            f"tokenizer.vocab_size={self.vocab_size}",
        ]


SHAPES = {
    "small": Shape(n_layers=4, d_model=128, n_heads=4, block=64, batch=12),
    "mid": Shape(n_layers=6, d_model=384, n_heads=6, block=256, batch=16),
    "gpt2-small": Shape(n_layers=12, d_model=768, n_heads=12, block=1024, batch=2, n_warmup_steps=1),
}

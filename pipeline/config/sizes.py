"""The cost of a training step at each of the sizes in `configs/size/`."""

from collections.abc import Mapping

from omegaconf import OmegaConf

from pipeline.config.groups import CONFIGS, groups
from pipeline.config.plain import to_plain


def cost(size: Mapping[str, int], vocab_size: int) -> float:
    """Return the multiplications of a forward pass over one row: matrices, head and attention products.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", table 1.
    """
    d_model, n_layers, length = size["d_model"], size["n_layers"], size["max_seq_len"]
    return length * (12.0 * n_layers * d_model**2 + vocab_size * d_model + 2.0 * n_layers * length * d_model)


def smaller_sizes(size: Mapping[str, int], vocab_size: int) -> dict[str, float]:
    """Return name -> cost as a fraction of the cost of `size`, for each smaller size, largest first."""
    given = cost(size, vocab_size)
    named = {name: to_plain(OmegaConf.load(CONFIGS / "size" / f"{name}.yaml")) for name in groups()["size"]}
    parts = {name: cost(other, vocab_size) / given for name, other in named.items()}
    return {name: part for name, part in sorted(parts.items(), key=lambda item: -item[1]) if part < 1}

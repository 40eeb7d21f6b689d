"""A model: a backbone and a head."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from modules.transformer import Transformer


class Model(nn.Module):
    """A backbone with a head: from a batch to hidden states to logits."""

    backbone: Transformer
    head: nn.Module

    def __init__(self, backbone: Transformer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "*shape"]:
        """Return the logits; their shape depends on the head."""
        logits: Tensor = self.head(self.hidden(batch), batch)
        return logits

    def hidden(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B T D"]:
        """Return the hidden states, for losses that never hold all logits at once."""
        hidden: Tensor = self.backbone(batch)
        return hidden

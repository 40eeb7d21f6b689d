"""From a trained thing back to the bytes, the code and the seed: followed, checked, printed, drawn."""

from pipeline.lineage.nodes import Node, State
from pipeline.lineage.picture import draw
from pipeline.lineage.trace import trace
from pipeline.lineage.tree import as_tree

__all__ = ["Node", "State", "as_tree", "draw", "trace"]

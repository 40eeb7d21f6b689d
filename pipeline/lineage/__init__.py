"""The lineage of a bundle, back to bytes, code and seed: traced, checked, printed and drawn."""

from pipeline.lineage.nodes import Node, State
from pipeline.lineage.picture import draw
from pipeline.lineage.trace import trace
from pipeline.lineage.tree import as_tree

__all__ = ["Node", "State", "as_tree", "draw", "trace"]

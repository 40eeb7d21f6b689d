"""Trace the lineage of a bundle back to files, code and seed; check, print and draw it."""

from pipeline.lineage.nodes import Node, State
from pipeline.lineage.picture import draw
from pipeline.lineage.trace import trace
from pipeline.lineage.tree import as_tree

__all__ = ["Node", "State", "as_tree", "draw", "trace"]

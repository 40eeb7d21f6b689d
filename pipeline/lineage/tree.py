"""Render a lineage as a tree for the terminal."""

from rich.text import Text
from rich.tree import Tree

from pipeline.lineage.nodes import MARKS, Node

#: Kinds are padded to this width, so that titles are aligned.
_KIND_WIDTH = 10


def as_tree(node: Node) -> Tree:
    """Return the node as a tree, with its inputs below it."""
    tree = Tree(_line(node), guide_style="dim")
    for part in node.made_from:
        tree.children.append(as_tree(part))
    return tree


def _line(node: Node) -> Text:
    mark, colour = MARKS[node.state]
    style = "dim" if colour == "grey" else colour
    facts = "  ".join(f"{name} {value}" for name, value in node.facts.items())
    kind = (f"{node.kind:<{_KIND_WIDTH}} ", "dim")
    line = Text.assemble((f"{mark} ", style), kind, (node.title, "bold"), f"  {facts}".rstrip())
    if node.note:
        line.append(f"  ({node.note})", style)
    return line

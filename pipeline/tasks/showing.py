"""How a task is shown to a person who tries it in a browser."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: A text in each language of the page, by its code, such as `en` and `zh`.
Texts = Mapping[str, str]

#: What an answer looks like: a text, probabilities of labels, a part of a text, marked words, a text that
#: goes on from the input, or the next turn of a dialogue.
Form = Literal["text", "labels", "span", "entities", "continuation", "dialogue"]


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What a page needs to know of a task, beside its columns.

    Args:
        form: how its answers are shown.
        title: its name; empty: the word that the user types.
        about: what it does, in a sentence.
        columns: names of the columns that are read; one that is left out is called as in rows.
        view: the view of the story world whose rows are examples; None: the task's `example_row`.
    """

    form: Form = "text"
    title: Texts = field(default_factory=dict)
    about: Texts = field(default_factory=dict)
    columns: Mapping[str, Texts] = field(default_factory=dict)
    view: str | None = None

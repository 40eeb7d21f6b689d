"""How the demo page presents a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: A text in each language of the page, keyed by language code, such as `en` and `zh`.
Texts = Mapping[str, str]

#: How a prediction is displayed: a text, probabilities of labels, a span of a text, marked words, a text that
#: continues the input, or the next turn of a dialogue.
Form = Literal["text", "labels", "span", "entities", "continuation", "dialogue"]


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What the demo page needs to know about a task, other than its columns.

    Args:
        form: how predictions are displayed.
        title: the title of the task; empty: its name in commands.
        about: a sentence that says what the task does.
        columns: titles of the columns that are read; a column without one is shown by its name.
        view: the story-world view that provides example rows; None: the task's `example_row`.
    """

    form: Form = "text"
    title: Texts = field(default_factory=dict)
    about: Texts = field(default_factory=dict)
    columns: Mapping[str, Texts] = field(default_factory=dict)
    view: str | None = None

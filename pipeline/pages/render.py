"""A template of Jinja as a page that needs nothing else: no network, no script, no further file."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

#: Where the style sheet and the frame of all pages lie.
SHARED = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Fill a template, which extends `base.html.j2`; all values are escaped."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(template.name).render(**values)


def breakable(text: str) -> Markup:
    """A name or path that a line may break at its joints, and nowhere else while there is room."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_./=,])", text))

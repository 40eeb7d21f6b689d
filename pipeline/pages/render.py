"""Render a Jinja template as a self-contained page, without network access, scripts or other files."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

#: The folder with the style sheet and the base template of all pages.
SHARED = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Render a template that extends `base.html.j2`; all values are escaped."""
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
    """Return a name or path that a browser breaks only after its separators, if possible."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_./=,])", text))

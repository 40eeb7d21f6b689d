"""Choose a family of Hugging Face models that can express a model."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import InteropError
from pipeline.interop.families import FAMILIES
from pipeline.interop.table import Family


def choose_family(ours: Mapping[str, Any], model_type: str | None = None) -> Family:
    """The family of that name, or the first that can express the model.

    Raises:
        InteropError: no family of that name, or none that can; says which option stands in the way.
    """
    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    if model_type is not None and model_type not in known:
        raise InteropError(
            f"FORMAT={model_type} is not supported", f"one of {', '.join(known)}", "choose one of these"
        )
    named = [family for family in FAMILIES if model_type in (None, family.model_type)]
    nearest = min(named, key=lambda family: len(family.problems(ours)))
    nearest.to_theirs(ours)  # refuses what it cannot express
    return nearest

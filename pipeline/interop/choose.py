"""Choose the Hugging Face model family that can express a model."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import InteropError
from pipeline.interop.families import FAMILIES
from pipeline.interop.table import Family


def choose_family(ours: Mapping[str, Any], model_type: str | None = None) -> Family:
    """Return the family named `model_type`, or the first one that can express the model.

    Raises:
        InteropError: there is no such family, or it cannot express the model; names the options responsible.
    """
    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    if model_type is not None and model_type not in known:
        raise InteropError(
            f"FORMAT={model_type} is not supported", f"one of {', '.join(known)}", "choose one of these"
        )
    named = [family for family in FAMILIES if model_type in (None, family.model_type)]
    nearest = min(named, key=lambda family: len(family.problems(ours)))
    nearest.to_theirs(ours)  # raises if it cannot express the model
    return nearest

"""Small worlds, whose stories can all be listed."""

from datamodules.storyworld.events import State, World
from datamodules.storyworld.plot import Plot

_ONE_OF_EACH = {
    "role": 1, "adjective": 1, "when": 1, "way": 1, "mood": 1, "manner": 1, "pastime": 1, "animal": 1,
    "act": 1, "spot": 1, "treat": 1,
}  # fmt: skip
_INTRODUCED = State("wish", people=(0, 9, 2), at=(0, 1, 2), things=(3, 7), held=(0, 1))


def events_only(*plans: str, most_variants: int = 1, **sizes: int) -> Plot:
    """Stories that begin with the wish; person and place plans are told apart by the step C."""
    person = tuple(plan for plan in plans if "C" not in plan)
    place = tuple(plan for plan in plans if "C" in plan)
    return Plot(World({**_ONE_OF_EACH, "place": 6, **sizes}), person, place, most_variants, _INTRODUCED)


def introductions_only(most_variants: int = 1, **sizes: int) -> Plot:
    """Whole stories in a world so small that little else than the introductions varies."""
    small = {"person": 3, "place": 5, "thing": 2, "animal": 1}
    return Plot(World({**_ONE_OF_EACH, **small, **sizes}), ("W",), (), most_variants)

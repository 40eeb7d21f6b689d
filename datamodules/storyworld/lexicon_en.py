"""English words: the forms of every concept that the English grammar uses."""

from datamodules.storyworld.concepts import SEXES

Forms = dict[str, str]

NAMES = (
    "Mila", "Nora", "Lina", "Ida", "Frieda", "Greta", "Tilda", "Wanda",
    "Otto", "Emil", "Hugo", "Anton", "Bruno", "Karl", "Theo", "Oskar",
)  # fmt: skip
PRONOUNS = {
    "f": {"he": "she", "him": "her", "his": "her", "self": "herself"},
    "m": {"he": "he", "him": "him", "his": "his", "self": "himself"},
}
ROLES = (
    "baker", "gardener", "weaver", "tailor", "shepherd",
    "potter", "painter", "teacher", "clockmaker", "beekeeper",
)  # fmt: skip
PLACES = (
    ("at", "mill"), ("on", "bridge"), ("in", "garden"), ("in", "tower"), ("at", "harbour"),
    ("in", "forest"), ("at", "market"), ("by", "lake"), ("in", "barn"), ("at", "castle"),
    ("at", "school"), ("on", "hill"), ("by", "well"), ("at", "inn"),
)  # fmt: skip
THINGS = (
    "lantern", "key", "drum", "kite", "cup", "ring", "bell", "book", "map",
    "hat", "basket", "flute", "mirror", "coin", "scarf", "pillow", "rope", "feather",
)  # fmt: skip
ADJECTIVES = ("red", "blue", "green", "yellow", "white", "black", "old", "little")
WEATHERS = ("foggy", "sunny", "windy", "rainy", "snowy", "cold")
TIMES = ("morning", "afternoon", "evening")
WAYS = (
    "along the river", "across the fields", "through the tall grass", "past the old oak",
    "down the narrow lane", "over the stone wall", "behind the houses", "between the hedges",
)  # fmt: skip
MOODS = (
    "lost in thought", "in a great hurry", "singing loudly", "half asleep",
    "chased by a goose", "counting the clouds", "whistling softly", "laughing out loud",
)  # fmt: skip
MANNERS = (
    "with a smile", "with shining eyes", "after a moment of thought",
    "with a wink", "with great pleasure", "with a light heart", "without hesitation", "with a deep bow",
)  # fmt: skip
PASTIMES = (
    "singing to the birds", "waiting for friends", "taking a nap", "eating an apple", "telling jokes",
    "feeding the pigeons", "practising a dance", "mending a net", "drinking tea", "carving a spoon",
)  # fmt: skip
ANIMALS = ("cat", "dog", "crow", "sheep", "frog", "hen", "donkey", "squirrel", "hedgehog", "pig")
ACTS = ("yawned", "sneezed", "danced", "dreamed", "nodded", "listened", "giggled", "waited")
SPOTS = (
    "on a roof", "in the grass", "under a tree", "behind a fence",
    "beside a cart", "in the shade", "by a puddle", "on a wall",
)  # fmt: skip
TREATS = (
    "warm soup", "fresh bread", "apple cake", "honey biscuits",
    "plum jam", "hot chocolate", "roasted chestnuts", "sweet tea",
)  # fmt: skip


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _person(name: str, sex: str) -> Forms:
    return {"name": name, **PRONOUNS[sex]}


def _place(at: str, the: str) -> Forms:
    return {"at": f"{at} {the}", "At": f"{_capital(at)} {the}", "to": f"to {the}"}


def tables() -> dict[str, list[Forms]]:
    """Return, for each domain, the forms of each of its ids."""
    people = [_person(name, sex) for name, sex in zip(NAMES, SEXES, strict=True)]
    return {
        "person": people,
        "someone": [{**person, "role": role} for person in people for role in ROLES],
        "place": [_place(at, f"the {noun}") | {"noun": noun} for at, noun in PLACES],
        "thing": [{"noun": noun, "the": f"the {noun}", "The": f"The {noun}"} for noun in THINGS],
        "item": [{"a": _a(f"{adjective} {noun}")} for noun in THINGS for adjective in ADJECTIVES],
        "when": [{"bare": f"{weather} {time}", "a": _a(f"{weather} {time}")}
                 for weather in WEATHERS for time in TIMES],
        "way": [{"it": way} for way in WAYS],
        "mood": [{"it": mood, "It": _capital(mood)} for mood in MOODS],
        "manner": [{"it": manner} for manner in MANNERS],
        "pastime": [{"it": pastime} for pastime in PASTIMES],
        "animal": [{"a": f"a {animal}", "A": f"A {animal}"} for animal in ANIMALS],
        "act": [{"it": act} for act in ACTS],
        "spot": [{"it": spot, "It": _capital(spot)} for spot in SPOTS],
        "treat": [{"it": treat} for treat in TREATS],
    }  # fmt: skip

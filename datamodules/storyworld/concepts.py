"""The concepts of the world as ids, without words, and the slots of each kind of sentence."""

SEXES = "ffffffffmmmmmmmm"
"""The pronoun of each person: f (she) or m (he)."""

N_PEOPLE = len(SEXES)
N_ROLES = 10
N_PLACES = 14
N_THINGS = 18
N_ADJECTIVES = 8
N_WEATHERS = 6
N_TIMES = 3
N_WAYS = 8
N_MOODS = 8
N_MANNERS = 8
N_PASTIMES = 10
N_ANIMALS = 10
N_ACTS = 8
N_SPOTS = 8
N_TREATS = 8

# "someone" is a person with a trade (person * N_ROLES + role), "item" a thing with an adjective
# (thing * N_ADJECTIVES + adjective), and "when" a weather and a time of day (weather * N_TIMES + time).
# Each is a single choice, because in German the inflection of one part depends on the other.
DOMAINS: dict[str, int] = {
    "someone": N_PEOPLE * N_ROLES,
    "person": N_PEOPLE,
    "place": N_PLACES,
    "item": N_THINGS * N_ADJECTIVES,
    "thing": N_THINGS,
    "when": N_WEATHERS * N_TIMES,
    "way": N_WAYS,
    "mood": N_MOODS,
    "manner": N_MANNERS,
    "pastime": N_PASTIMES,
    "animal": N_ANIMALS,
    "act": N_ACTS,
    "spot": N_SPOTS,
    "treat": N_TREATS,
}

SIGNATURES: dict[str, dict[str, str]] = {
    "opening": {"when": "when", "who": "someone", "p": "place", "item": "item"},
    "friend": {"who": "someone", "p": "place", "item": "item"},
    "third": {"who": "someone", "p": "place", "doing": "pastime"},
    "wish_self": {"h": "person", "T": "thing"},
    "wish_other": {"h": "person", "b": "person", "T": "thing"},
    "wish_place": {"h": "person", "T": "thing", "p": "place"},
    "bring": {"a": "person", "b": "person", "T": "thing", "q": "place", "r": "place", "way": "way"},
    "fetch": {"a": "person", "b": "person", "T": "thing", "p": "place", "r": "place", "how": "manner"},
    "drop": {"a": "person", "T": "thing", "p": "place", "q": "place", "mood": "mood"},
    "find": {"b": "person", "T": "thing", "p": "place"},
    "carry": {"a": "person", "T": "thing", "q": "place", "way": "way"},
    "walk": {"a": "person", "q": "place", "way": "way"},
    "giver_says": {"a": "person"},
    "receiver_says": {"a": "person", "b": "person"},
    "nature": {"who": "animal", "did": "act", "where": "spot"},
    "end_self_true": {"h": "person", "T": "thing"},
    "end_other_true": {"h": "person", "b": "person", "T": "thing"},
    "end_place_true": {"h": "person", "T": "thing", "p": "place"},
    "end_false": {"h": "person", "c": "person", "T": "thing"},
    "end_false_own": {"h": "person", "T": "thing"},
    "end_place_false": {"h": "person", "T": "thing", "p": "place"},
    "close_true": {"treat": "treat"},
    "close_false": {"h": "person", "treat": "treat"},
    "summary_self_true": {"h": "person", "T": "thing", "p": "place"},
    "summary_self_false": {"h": "person", "c": "person", "T": "thing", "p": "place"},
    "summary_other_true": {"h": "person", "b": "person", "T": "thing", "p": "place"},
    "summary_other_false": {"h": "person", "b": "person", "c": "person", "T": "thing", "p": "place"},
    "summary_other_own": {"h": "person", "b": "person", "T": "thing", "p": "place"},
    "summary_place_true": {"h": "person", "T": "thing", "p": "place"},
    "summary_place_false": {"h": "person", "T": "thing", "p": "place", "q": "place"},
    "ask_story": {"h": "person"},
    "ask_where_thing": {"T": "thing"},
    "ask_where_person": {"a": "person"},
    "ask_who_has": {"T": "thing"},
    "ask_wished": {"h": "person"},
    "ask_first_place": {"a": "person"},
    "ask_outcome": {"h": "person"},
    "ask_thanks": {},
    "say_where_thing": {"T": "thing", "p": "place"},
    "say_where_person": {"a": "person", "p": "place"},
    "say_who_has": {"a": "person", "T": "thing"},
    "say_wished_self": {"h": "person", "T": "thing"},
    "say_wished_other": {"h": "person", "b": "person", "T": "thing"},
    "say_wished_place": {"h": "person", "T": "thing", "p": "place"},
    "say_first_place": {"a": "person", "p": "place"},
    "say_true": {"h": "person"},
    "say_false": {"h": "person"},
    "say_welcome": {},
}
"""Kind of sentence -> its slots and their domains, the same in all languages, so that texts translate."""

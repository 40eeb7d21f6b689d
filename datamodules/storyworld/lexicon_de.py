"""German words: the forms (case, gender, contraction) of every concept that the German grammar uses."""

from datamodules.storyworld.concepts import SEXES

Forms = dict[str, str]

NAMES = (
    "Mila", "Nora", "Lina", "Ida", "Frieda", "Greta", "Tilda", "Wanda",
    "Otto", "Emil", "Hugo", "Anton", "Bruno", "Karl", "Theo", "Oskar",
)  # fmt: skip
PRONOUNS = {
    "f": {"er": "sie", "ihn": "sie", "ihm": "ihr", "sein": "ihr", "der": "die"},
    "m": {"er": "er", "ihn": "ihn", "ihm": "ihm", "sein": "sein", "der": "der"},
}
ROLES = (
    "Bäcker", "Gärtner", "Weber", "Schneider", "Schäfer",
    "Töpfer", "Maler", "Lehrer", "Uhrmacher", "Imker",
)  # fmt: skip
PLACES = (
    ("Mühle", "in der Mühle", "zur Mühle"),
    ("Brücke", "auf der Brücke", "zur Brücke"),
    ("Garten", "im Garten", "in den Garten"),
    ("Turm", "im Turm", "zum Turm"),
    ("Hafen", "am Hafen", "zum Hafen"),
    ("Wald", "im Wald", "in den Wald"),
    ("Markt", "auf dem Markt", "zum Markt"),
    ("See", "am See", "zum See"),
    ("Scheune", "in der Scheune", "zur Scheune"),
    ("Schloss", "im Schloss", "zum Schloss"),
    ("Schule", "in der Schule", "zur Schule"),
    ("Hügel", "auf dem Hügel", "auf den Hügel"),
    ("Brunnen", "am Brunnen", "zum Brunnen"),
    ("Gasthaus", "im Gasthaus", "ins Gasthaus"),
)
THINGS = (
    ("f", "Laterne"), ("m", "Schlüssel"), ("f", "Trommel"), ("m", "Drachen"), ("f", "Tasse"), ("m", "Ring"),
    ("f", "Glocke"), ("n", "Buch"), ("f", "Karte"), ("m", "Hut"), ("m", "Korb"), ("f", "Flöte"),
    ("m", "Spiegel"), ("f", "Münze"), ("m", "Schal"), ("n", "Kissen"), ("n", "Seil"), ("f", "Feder"),
)  # fmt: skip
ADJECTIVES = ("rot", "blau", "grün", "gelb", "weiß", "schwarz", "alt", "klein")
WEATHERS = ("neblig", "sonnig", "windig", "regnerisch", "verschneit", "kalt")
TIMES = ("Morgen", "Nachmittag", "Abend")
WAYS = (
    "am Fluss entlang", "über die Felder", "durch das hohe Gras", "an der alten Eiche vorbei",
    "durch die schmale Gasse", "über die Steinmauer", "hinter den Häusern entlang",
    "zwischen den Hecken hindurch",
)  # fmt: skip
MOODS = (
    "in Gedanken versunken", "in großer Eile", "laut singend", "noch halb im Schlaf",
    "von einer Gans verfolgt", "die Wolken zählend", "leise pfeifend", "laut lachend",
)  # fmt: skip
MANNERS = (
    "mit einem Lächeln", "mit leuchtenden Augen", "nach kurzem Überlegen", "mit einem Augenzwinkern",
    "mit großem Vergnügen", "leichten Herzens", "ohne Zögern", "mit einer tiefen Verbeugung",
)  # fmt: skip
PASTIMES = (
    ("sang", "den Vögeln etwas vor"), ("wartete", "auf Freunde"), ("hielt", "ein Nickerchen"),
    ("aß", "einen Apfel"), ("erzählte", "Witze"), ("fütterte", "die Tauben"), ("übte", "einen Tanz"),
    ("flickte", "ein Netz"), ("trank", "Tee"), ("schnitzte", "einen Löffel"),
)  # fmt: skip
ANIMALS = (
    "eine Katze", "ein Hund", "eine Krähe", "ein Schaf", "ein Frosch",
    "ein Huhn", "ein Esel", "ein Eichhörnchen", "ein Igel", "ein Schwein",
)  # fmt: skip
ACTS = ("gähnte", "nieste", "tanzte", "träumte", "nickte", "lauschte", "kicherte", "wartete")
SPOTS = (
    "auf einem Dach", "im Gras", "unter einem Baum", "hinter einem Zaun",
    "neben einem Karren", "im Schatten", "an einer Pfütze", "auf einer Mauer",
)  # fmt: skip
# nominative or accusative after "es gab", dative
TREATS = (
    ("warme Suppe", "warmer Suppe"), ("frisches Brot", "frischem Brot"), ("Apfelkuchen", "Apfelkuchen"),
    ("Honigkekse", "Honigkeksen"), ("Pflaumenmus", "Pflaumenmus"), ("heiße Schokolade", "heißer Schokolade"),
    ("geröstete Kastanien", "gerösteten Kastanien"), ("süßen Tee", "süßem Tee"),
)  # fmt: skip

ARTICLES = {
    "m": {"nom": "der", "acc": "den", "dat": "dem"},
    "f": {"nom": "die", "acc": "die", "dat": "der"},
    "n": {"nom": "das", "acc": "das", "dat": "dem"},
}
# article and adjective ending after "ein"
INDEFINITE = {
    "m": {"nom": ("ein", "er"), "acc": ("einen", "en"), "dat": ("einem", "en")},
    "f": {"nom": ("eine", "e"), "acc": ("eine", "e"), "dat": ("einer", "en")},
    "n": {"nom": ("ein", "es"), "acc": ("ein", "es"), "dat": ("einem", "en")},
}
THING_PRONOUNS = {"m": ("er", "ihn"), "f": ("sie", "sie"), "n": ("es", "es")}


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _someone(person: Forms, sex: str, role: str) -> Forms:
    noun = role + "in" if sex == "f" else role
    article, one = ("die", "eine") if sex == "f" else ("der", "ein")
    return {
        **person,
        "role": f"{article} {noun}",
        "Role": f"{_capital(article)} {noun}",
        "a_role": f"{one} {noun}",
    }


def _thing(gender: str, noun: str) -> Forms:
    cases = {case: f"{article} {noun}" for case, article in ARTICLES[gender].items()}
    it, it_acc = THING_PRONOUNS[gender]
    return {"noun": noun, **cases, "Nom": _capital(cases["nom"]), "it": it, "it_acc": it_acc}


def _item(gender: str, noun: str, adjective: str) -> Forms:
    return {case: f"{ein} {adjective}{ending} {noun}" for case, (ein, ending) in INDEFINITE[gender].items()}


def tables() -> dict[str, list[Forms]]:
    """Return, for each domain, the forms of each of its ids."""
    people = [{"name": name, **PRONOUNS[sex]} for name, sex in zip(NAMES, SEXES, strict=True)]
    return {
        "person": people,
        "someone": [_someone(person, sex, role)
                    for person, sex in zip(people, SEXES, strict=True) for role in ROLES],
        "place": [{"noun": noun, "at": at, "At": _capital(at), "to": to} for noun, at, to in PLACES],
        "thing": [_thing(gender, noun) for gender, noun in THINGS],
        "item": [_item(gender, noun, adjective) for gender, noun in THINGS for adjective in ADJECTIVES],
        "when": [{"nom": f"ein {weather}er {time}", "An": f"An einem {weather}en {time}"}
                 for weather in WEATHERS for time in TIMES],
        "way": [{"it": way} for way in WAYS],
        "mood": [{"it": mood, "It": _capital(mood)} for mood in MOODS],
        "manner": [{"it": manner} for manner in MANNERS],
        "pastime": [{"verb": verb, "rest": rest} for verb, rest in PASTIMES],
        "animal": [{"nom": animal, "Nom": _capital(animal)} for animal in ANIMALS],
        "act": [{"it": act} for act in ACTS],
        "spot": [{"it": spot, "It": _capital(spot)} for spot in SPOTS],
        "treat": [{"acc": acc, "dat": dat} for acc, dat in TREATS],
    }  # fmt: skip

"""German sentences: the variants of each kind; variant i has the same meaning in all languages."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "opening": (
        "{when.An} war {who.role} {who.name} mit {item.dat} {p.at}.",
        "Es war {when.nom}, und {p.at} saß {who.role} {who.name} mit {item.dat}.",
        "Es war einmal {who.a_role} namens {who.name}. {when.An} stand {who.er} {p.at} und hielt {item.acc} "
        "in den Händen.",
        "{when.An} fand {who.role} {who.name} {p.at} {item.acc}.",
    ),
    "friend": (
        "{p.At} hütete {who.role} {who.name} {item.acc} wie einen Schatz.",
        "{who.Role} {who.name} war {p.at} und hatte {item.acc}.",
        "Währenddessen ruhte sich {who.role} {who.name} {p.at} neben {item.dat} aus.",
    ),
    "third": (
        "{who.Role} {who.name} {doing.verb} {p.at} {doing.rest}.",
        "{p.At} {doing.verb} {who.role} {who.name} {doing.rest}.",
    ),
    "wish_self": (
        "{h.name} wünschte sich nichts so sehr wie {T.acc}.",
        "Wie sehr sehnte sich {h.name} danach, {T.acc} zu haben!",
        "{h.name} träumte schon seit einem ganzen Jahr von {T.dat}.",
    ),
    "wish_other": (
        "{h.name} hoffte, dass {b.name} {T.acc} bekommen würde.",
        "{b.name} hatte Geburtstag, und {h.name} wollte, dass {b.er} {T.acc} bekam.",
        "{h.name} wünschte sich von ganzem Herzen, dass {b.name} {T.acc} hätte.",
    ),
    "wish_place": (
        "{h.name} wollte, dass {T.nom} noch vor Mitternacht {p.to} kam.",
        "{h.name} hoffte, {T.acc} am Ende des Tages {p.at} zu sehen.",
        "{p.At} sollte ein Fest stattfinden, und {h.name} wünschte sich {T.acc} dorthin.",
    ),
    "bring": (
        "{a.name} lief {way.it} {q.to}, gab {b.name} {T.acc} und ging weiter {r.to}.",
        "Bald kam {a.name} {way.it} {q.to}, übergab {b.name} {T.acc} und eilte dann {r.to}.",
        "{b.name} bekam {T.acc} von {a.name}, {a.der} {way.it} {q.to} kam und dann {r.to} ging.",
        "{a.name} überraschte {b.name} {q.at} mit {T.dat} und lief dann {way.it} {r.to}.",
    ),
    "fetch": (
        "{p.At} gab {a.name} {T.acc} {how.it} an {b.name} weiter, und {b.name} trug {T.it_acc} {r.to}.",
        "Als {b.name} {p.to} kam, gab {a.name} {b.ihm} {how.it} {T.acc}, "
        "und {b.name} brachte {T.it_acc} {r.to}.",
        "{b.name} bat {p.at} um {T.acc}, {a.name} willigte {how.it} ein, und {b.name} lief damit {r.to}.",
    ),
    "drop": (
        "{mood.It} lief {a.name} {q.to} und vergaß {T.acc} {p.at}.",
        "{a.name} ließ {T.acc} {p.at} zurück und ging {mood.it} {q.to}.",
        "{T.Nom} blieb {p.at} liegen, als {a.name} {mood.it} {q.to} ging.",
    ),
    "find": (
        "{b.name} fand {T.acc} {p.at} und behielt {T.it_acc}.",
        "Es war {b.name}, {b.der} {T.acc} {p.at} aufhob.",
        "Bald darauf entdeckte {b.name} {T.acc} {p.at} und nahm {T.it_acc} an sich.",
    ),
    "carry": (
        "{a.name} trug {T.acc} {way.it} {q.to}.",
        "{a.name} brach mit {T.dat} auf und ging {way.it} {q.to}.",
        "Dann brachte {a.name} {T.acc} {way.it} {q.to}.",
    ),
    "walk": (
        "{a.name} machte einen Spaziergang {way.it} {q.to}.",
        "{a.name} schlenderte {way.it} {q.to} und dachte ans Abendessen.",
        "Unterdessen eilte {a.name} {way.it} {q.to}.",
    ),
    "giver_says": (
        "„Ein Freund ist mehr wert als jeder Schatz“, dachte {a.name}.",
        "„Das war das Richtige“, dachte {a.name}.",
        "„Hoffentlich bringt das Glück“, flüsterte {a.name}.",
        "„Das wird mir ein wenig fehlen“, seufzte {a.name}.",
    ),
    "receiver_says": (
        "„Wie nett {a.name} ist!“, sagte {b.name}.",
        "„Das werde ich nie vergessen“, sagte {b.name}.",
        "„Was für ein wunderbarer Tag!“, rief {b.name}.",
        "„Ich werde gut darauf aufpassen“, versprach {b.name}.",
    ),
    "nature": (
        "{who.Nom} {did.it} {where.it}.",
        "{where.It} {did.it} {who.nom}.",
    ),
    "end_self_true": (
        "Am Ende hatte {h.name} {T.acc} und tanzte vor Freude.",
        "Als der Mond aufging, gehörte {T.nom} {h.name}, und {h.sein} Wunsch war in Erfüllung gegangen.",
        "In dieser Nacht schlief {h.name} glücklich ein, und {T.nom} lag neben {h.ihm}.",
    ),
    "end_other_true": (
        "Am Ende hatte {b.name} {T.acc}, und {h.name} tanzte vor Freude.",
        "Als der Mond aufging, gehörte {T.nom} {b.name}, genau wie {h.name} es sich gewünscht hatte.",
        "In dieser Nacht schlief {h.name} glücklich ein, weil {b.name} {T.acc} hatte.",
    ),
    "end_place_true": (
        "Am Ende war {T.nom} {p.at}, und {h.name} tanzte vor Freude.",
        "Als der Mond aufging, war {T.nom} {p.at}, genau wie {h.name} es sich gewünscht hatte.",
        "In dieser Nacht schlief {h.name} glücklich ein, weil {T.nom} {p.at} war.",
    ),
    "end_false": (
        "Doch am Ende hatte {c.name} {T.acc}, und {h.name} ging seufzend nach Hause.",
        "Als der Mond aufging, gehörte {T.nom} {c.name}, und {h.name} war traurig.",
        "In dieser Nacht lag {h.name} lange wach, weil {c.name} {T.acc} hatte.",
    ),
    "end_false_own": (
        "Doch am Ende hatte {h.name} selbst {T.acc}, und {h.er} ging seufzend nach Hause.",
        "Als der Mond aufging, hatte {h.name} selbst {T.acc}, und das machte {h.ihn} traurig.",
        "In dieser Nacht lag {h.name} lange wach, weil {h.er} selbst {T.acc} hatte.",
    ),
    "end_place_false": (
        "Doch am Ende war {T.nom} {p.at}, und {h.name} ging seufzend nach Hause.",
        "Als der Mond aufging, war {T.nom} {p.at}, und {h.name} war traurig.",
        "In dieser Nacht lag {h.name} lange wach, weil {T.nom} {p.at} war.",
    ),
    "close_true": (
        "Alle sangen, bis die Sterne herauskamen, und ließen sich {treat.acc} schmecken.",
        "Danach gab es {treat.acc} für alle.",
        "Alle feierten zusammen mit {treat.dat}.",
    ),
    "close_false": (
        "„Morgen ist auch noch ein Tag“, sagte {h.name} und teilte {treat.acc} mit den anderen.",
        "Immerhin trösteten die anderen {h.ihn} mit {treat.dat}.",
        "Wenig später lächelte {h.name} wieder bei {treat.dat}.",
    ),
    "summary_self_true": ("{h.name} wünscht sich {T.acc} und hat {T.it_acc} am Ende {p.at}.",),
    "summary_self_false": ("{h.name} wünscht sich {T.acc}, aber am Ende hat {c.name} {T.it_acc} {p.at}.",),
    "summary_other_true": (
        "{h.name} möchte, dass {b.name} {T.acc} hat, und am Ende hat {b.name} {T.it_acc} {p.at}.",
    ),
    "summary_other_false": (
        "{h.name} möchte, dass {b.name} {T.acc} hat, aber am Ende hat {c.name} {T.it_acc} {p.at}.",
    ),
    "summary_other_own": (
        "{h.name} möchte, dass {b.name} {T.acc} hat, aber am Ende hat {h.er} {T.it_acc} {p.at} selbst.",
    ),
    "summary_place_true": ("{h.name} möchte {T.acc} {p.at} sehen, und am Ende ist {T.it} dort.",),
    "summary_place_false": ("{h.name} möchte {T.acc} {p.at} sehen, aber am Ende ist {T.it} {q.at}.",),
    "ask_story": (
        "Erzähl mir bitte eine Geschichte über {h.name}.",
        "Kennst du eine Geschichte über {h.name}?",
    ),
    "ask_where_thing": ("Wo ist {T.nom} am Ende?", "Wo landet {T.nom}?"),
    "ask_where_person": ("Wo ist {a.name} am Ende?", "Wo landet {a.name}?"),
    "ask_who_has": ("Wer hat {T.acc} am Ende?", "Bei wem landet {T.nom}?"),
    "ask_wished": ("Was wünschte sich {h.name}?", "Was war der Wunsch von {h.name}?"),
    "ask_first_place": ("Wo war {a.name} zuerst?", "Wo war {a.name} am Anfang?"),
    "ask_outcome": (
        "Ging der Wunsch von {h.name} in Erfüllung?",
        "Bekam {h.name}, was {h.er} sich wünschte?",
    ),
    "ask_thanks": ("Danke!", "Danke für die Geschichte!"),
    "say_where_thing": ("{T.Nom} ist {p.at}.",),
    "say_where_person": ("{a.name} ist {p.at}.",),
    "say_who_has": ("{a.name} hat {T.acc}.",),
    "say_wished_self": ("{h.name} wollte {T.acc} haben.",),
    "say_wished_other": ("{h.name} wollte, dass {b.name} {T.acc} hat.",),
    "say_wished_place": ("{h.name} wollte {T.acc} {p.at} sehen.",),
    "say_first_place": ("Zuerst war {a.name} {p.at}.",),
    "say_true": ("Ja, der Wunsch von {h.name} ging in Erfüllung.",),
    "say_false": ("Nein, der Wunsch von {h.name} ging nicht in Erfüllung.",),
    "say_welcome": ("Gern geschehen.",),
}  # fmt: skip

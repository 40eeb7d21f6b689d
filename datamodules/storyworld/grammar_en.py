"""English sentences: the variants of each kind; variant i has the same meaning in all languages."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "opening": (
        "One {when.bare}, {who.name} the {who.role} was {p.at} with {item.a}.",
        "It was {when.a}, and {p.at} sat {who.name} the {who.role} with {item.a}.",
        "There once was a {who.role} named {who.name}. One {when.bare}, {who.he} stood {p.at} "
        "and held {item.a} in {who.his} hands.",
        "On {when.a}, {who.name} the {who.role} found {item.a} {p.at}.",
    ),
    "friend": (
        "{p.At}, {who.name} the {who.role} was guarding {item.a} like a treasure.",
        "{who.name} the {who.role} was {p.at} and had {item.a}.",
        "Meanwhile, {who.name} the {who.role} was resting {p.at} beside {item.a}.",
    ),
    "third": (
        "{who.name} the {who.role} was {p.at}, {doing.it}.",
        "{p.At}, {who.name} the {who.role} was {doing.it}.",
    ),
    "wish_self": (
        "{h.name} wished for nothing so much as {T.the}.",
        "How {h.name} longed to have {T.the}!",
        "{h.name} had been dreaming of {T.the} for a whole year.",
    ),
    "wish_other": (
        "{h.name} hoped that {b.name} would get {T.the}.",
        "It was {b.name}'s birthday, and {h.name} wanted {b.him} to have {T.the}.",
        "{h.name} wished with all {h.his} heart for {b.name} to have {T.the}.",
    ),
    "wish_place": (
        "{h.name} wanted {T.the} to get {p.to} before midnight.",
        "{h.name} hoped to see {T.the} {p.at} at the end of the day.",
        "There was to be a feast {p.at}, and {h.name} wished for {T.the} to be there.",
    ),
    "bring": (
        "{a.name} walked {way.it} {q.to}, gave {b.name} {T.the}, and went on {r.to}.",
        "Soon {a.name} came {way.it} {q.to}, handed {T.the} over to {b.name}, and hurried off {r.to}.",
        "{b.name} got {T.the} from {a.name}, who came {way.it} {q.to} and then went {r.to}.",
        "{a.name} surprised {b.name} {q.at} with {T.the} and then walked {way.it} {r.to}.",
    ),
    "fetch": (
        "{p.At}, {a.name} gave {b.name} {T.the} {how.it}, and {b.name} carried it {r.to}.",
        "When {b.name} came {p.to}, {a.name} gave {b.him} {T.the} {how.it}, and {b.name} took it {r.to}.",
        "{b.name} begged for {T.the} {p.at}, {a.name} agreed {how.it}, and {b.name} ran {r.to} with it.",
    ),
    "drop": (
        "{mood.It}, {a.name} ran {q.to} and forgot {T.the} {p.at}.",
        "{a.name} left {T.the} behind {p.at} and went {q.to}, {mood.it}.",
        "{T.The} stayed behind {p.at} when {a.name} went {q.to}, {mood.it}.",
    ),
    "find": (
        "{b.name} found {T.the} {p.at} and kept it.",
        "It was {b.name} who picked up {T.the} {p.at}.",
        "Before long, {b.name} discovered {T.the} {p.at} and took it.",
    ),
    "carry": (
        "{a.name} carried {T.the} {way.it} {q.to}.",
        "{a.name} set out with {T.the} and went {way.it} {q.to}.",
        "Then {a.name} brought {T.the} {way.it} {q.to}.",
    ),
    "walk": (
        "{a.name} took a walk {way.it} {q.to}.",
        "{a.name} strolled {way.it} {q.to} and thought of supper.",
        "Meanwhile, {a.name} hurried {way.it} {q.to}.",
    ),
    "giver_says": (
        '"A friend is worth more than any treasure," thought {a.name}.',
        '"That was the right thing to do," thought {a.name}.',
        '"May it bring luck," whispered {a.name}.',
        '"I shall miss it a little," sighed {a.name}.',
    ),
    "receiver_says": (
        '"How kind {a.name} is!" said {b.name}.',
        '"I will never forget this," said {b.name}.',
        '"What a wonderful day!" cried {b.name}.',
        '"I will take good care of it," promised {b.name}.',
    ),
    "nature": (
        "{who.A} {did.it} {where.it}.",
        "{where.It}, {who.a} {did.it}.",
    ),
    "end_self_true": (
        "In the end {h.name} had {T.the} and danced for joy.",
        "When the moon rose, {T.the} belonged to {h.name}, and {h.his} wish had come true.",
        "That night {h.name} fell asleep happily, and {T.the} lay beside {h.him}.",
    ),
    "end_other_true": (
        "In the end {b.name} had {T.the}, and {h.name} danced for joy.",
        "When the moon rose, {T.the} belonged to {b.name}, just as {h.name} had wished.",
        "That night {h.name} fell asleep happily, because {b.name} had {T.the}.",
    ),
    "end_place_true": (
        "In the end {T.the} was {p.at}, and {h.name} danced for joy.",
        "When the moon rose, {T.the} was {p.at}, just as {h.name} had wished.",
        "That night {h.name} fell asleep happily, because {T.the} was {p.at}.",
    ),
    "end_false": (
        "But in the end {c.name} had {T.the}, and {h.name} went home with a sigh.",
        "When the moon rose, {T.the} belonged to {c.name}, and {h.name} was sad.",
        "That night {h.name} lay awake for a long time, because {c.name} had {T.the}.",
    ),
    "end_false_own": (
        "But in the end {h.name} had {T.the} {h.self}, and {h.he} went home with a sigh.",
        "When the moon rose, {h.name} {h.self} had {T.the}, and that made {h.him} sad.",
        "That night {h.name} lay awake for a long time, because {h.he} had {T.the} {h.self}.",
    ),
    "end_place_false": (
        "But in the end {T.the} was {p.at}, and {h.name} went home with a sigh.",
        "When the moon rose, {T.the} was {p.at}, and {h.name} was sad.",
        "That night {h.name} lay awake for a long time, because {T.the} was {p.at}.",
    ),
    "close_true": (
        "Everyone sang until the stars came out and enjoyed {treat.it}.",
        "Then everyone got {treat.it}.",
        "They all celebrated with {treat.it}.",
    ),
    "close_false": (
        '"Tomorrow is another day," said {h.name} and shared {treat.it} with the others.',
        "Still, the others comforted {h.him} with {treat.it}.",
        "A little later, {h.name} smiled again over {treat.it}.",
    ),
    "summary_self_true": ("{h.name} wishes for {T.the} and ends up with it {p.at}.",),
    "summary_self_false": ("{h.name} wishes for {T.the}, but {c.name} ends up with it {p.at}.",),
    "summary_other_true": (
        "{h.name} wants {b.name} to have {T.the}, and {b.name} ends up with it {p.at}.",
    ),
    "summary_other_false": (
        "{h.name} wants {b.name} to have {T.the}, but {c.name} ends up with it {p.at}.",
    ),
    "summary_other_own": (
        "{h.name} wants {b.name} to have {T.the}, but ends up with it {p.at} {h.self}.",
    ),
    "summary_place_true": ("{h.name} wants {T.the} {p.at}, and in the end it is there.",),
    "summary_place_false": ("{h.name} wants {T.the} {p.at}, but in the end it is {q.at}.",),
    "ask_story": ("Please tell me a story about {h.name}.", "Do you know a story about {h.name}?"),
    "ask_where_thing": ("Where is {T.the} at the end?", "Where does {T.the} end up?"),
    "ask_where_person": ("Where is {a.name} at the end?", "Where does {a.name} end up?"),
    "ask_who_has": ("Who has {T.the} at the end?", "Who ends up with {T.the}?"),
    "ask_wished": ("What did {h.name} wish for?", "What was {h.name}'s wish?"),
    "ask_first_place": ("Where was {a.name} at first?", "Where was {a.name} at the beginning?"),
    "ask_outcome": ("Did {h.name}'s wish come true?", "Did {h.name} get what {h.he} wished for?"),
    "ask_thanks": ("Thank you!", "Thanks for the story!"),
    "say_where_thing": ("{T.The} is {p.at}.",),
    "say_where_person": ("{a.name} is {p.at}.",),
    "say_who_has": ("{a.name} has {T.the}.",),
    "say_wished_self": ("{h.name} wanted to have {T.the}.",),
    "say_wished_other": ("{h.name} wanted {b.name} to have {T.the}.",),
    "say_wished_place": ("{h.name} wanted {T.the} to be {p.at}.",),
    "say_first_place": ("At first {a.name} was {p.at}.",),
    "say_true": ("Yes, {h.name}'s wish came true.",),
    "say_false": ("No, {h.name}'s wish did not come true.",),
    "say_welcome": ("You are welcome.",),
}  # fmt: skip

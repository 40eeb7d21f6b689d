"""BLEU, chrF and ROUGE equal the packages' own; their intervals are those of scores computed anew."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.base import Metric

from pipeline.tasks.finetuning import Prediction, Row
from pipeline.tasks.scoring import statistic_score
from pipeline.tasks.scripts import bleu_tokenizer, words_of
from pipeline.tasks.summarize import Summarisation
from pipeline.tasks.text_scores import rouge
from pipeline.tasks.translate import Translation

WORDS = ["a", "the", "red", "old", "hat", "mill", "dog", "cat", "runs", "under", "near,", "and.", "but!"]
HAN = list("红旧帽子磨坊狗猫跑睡在下，。的一")


def pairs(n: int, words: list[str], join: str, seed: int = 0) -> tuple[list[str], list[str]]:
    """Answers, and truths that share about two words in three with them."""
    random = np.random.default_rng(seed)
    truths = [[str(word) for word in random.choice(words, random.integers(4, 14))] for _ in range(n)]
    answers = [
        [word if random.random() < 0.7 else str(random.choice(words)) for word in truth] for truth in truths
    ]
    return [join.join(words) for words in answers], [join.join(words) for words in truths]


def predictions(answers: list[str]) -> list[Prediction]:
    return [Prediction(text=answer) for answer in answers]


def rows(truths: list[str], language: str | None = None) -> list[Row]:
    own = {} if language is None else {"target_language": language}
    return [{"source": "x", "target": truth} | own for truth in truths]


def test_bleu_and_chrf_equal_sacrebleu() -> None:
    answers, truths = pairs(200, WORDS, " ")
    answers[3] = ""
    scores = Translation().score(predictions(answers), rows(truths))
    assert scores["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(answers, [truths]).score, abs=1e-9)
    assert scores["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(answers, [truths]).score, abs=1e-9)
    assert set(scores) == {"bleu", "chrf"}


@pytest.mark.parametrize("language", [None, "zh", "zh-CN"])
def test_chinese_is_scored_by_characters(language: str | None) -> None:
    answers, truths = pairs(100, HAN, "")
    bleu = Translation().score(predictions(answers), rows(truths, language))["bleu"].value
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(answers, [truths], tokenize="zh").score, abs=1e-9)
    assert bleu != pytest.approx(sacrebleu.corpus_bleu(answers, [truths]).score)


def test_nothing_right_and_nothing_written_are_0_and_all_right_is_100() -> None:
    _, truths = pairs(20, WORDS, " ")
    task = Translation()
    for answers in (["zzz"] * 20, [""] * 20):
        assert task.score(predictions(answers), rows(truths), intervals=True)["bleu"].value == 0.0
    assert task.score(predictions(truths), rows(truths))["bleu"].value == pytest.approx(100.0)


def test_of_several_languages_each_is_scored_and_the_whole_is_their_mean() -> None:
    german, chinese = pairs(60, WORDS, " "), pairs(20, HAN, "")
    order = np.random.default_rng(1).permutation(80)
    answers = predictions(german[0] + chinese[0])
    truths = rows(german[1], "de") + rows(chinese[1], "zh")
    scores = Translation().score([answers[i] for i in order], [truths[i] for i in order], intervals=True)
    de = sacrebleu.corpus_bleu(german[0], [german[1]]).score
    zh = sacrebleu.corpus_bleu(chinese[0], [chinese[1]], tokenize="zh").score
    assert scores["bleu_de"].value == pytest.approx(de)
    assert scores["bleu_zh"].value == pytest.approx(zh)
    assert scores["bleu"].value == pytest.approx((de + zh) / 2)
    assert scores["chrf"].value == pytest.approx((scores["chrf_de"].value + scores["chrf_zh"].value) / 2)
    assert all(score.low < score.value < score.high for score in scores.values())


def test_an_interval_is_that_of_scoring_each_resample_anew() -> None:
    answers, truths = pairs(8, WORDS, " ")

    def anew(chosen: np.ndarray) -> np.ndarray:
        return np.array(
            [
                sacrebleu.corpus_bleu([answers[i] for i in line], [[truths[i] for i in line]]).score
                for line in chosen
            ]
        )

    slow = statistic_score(anew, 8, intervals=True)
    fast = Translation().score(predictions(answers), rows(truths), intervals=True)["bleu"]
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_each_text_is_tokenised_once_however_many_resamples_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    count = Metric._extract_corpus_statistics

    def spy(metric: Metric, hypotheses: Sequence[str], references: Any) -> Any:
        counted.append(len(hypotheses))
        return count(metric, hypotheses, references)

    monkeypatch.setattr(Metric, "_extract_corpus_statistics", spy)
    answers, truths = pairs(50, WORDS, " ")
    Translation().score(predictions(answers), rows(truths), intervals=True)
    assert counted == [50, 50]  # for BLEU and for chrF


def test_each_sentence_is_scored_by_its_chrf() -> None:
    answers, truths = pairs(5, WORDS, " ")
    expected = [
        sacrebleu.sentence_chrf(answer, [truth]).score / 100
        for answer, truth in zip(answers, truths, strict=True)
    ]
    assert Translation().row_scores(predictions(answers), rows(truths)) == pytest.approx(expected)


def test_the_signature_tells_how_bleu_was_computed() -> None:
    _, german = pairs(5, WORDS, " ")
    _, chinese = pairs(5, HAN, "")
    task = Translation()
    notes = task.notes([], rows(german))
    bleu = sacrebleu.metrics.BLEU()
    bleu.corpus_score(german, [german])
    assert notes["bleu"] == str(bleu.get_signature())
    assert notes["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    several = task.notes([], rows(german, "de") + rows(chinese, "zh"))
    assert "tok:13a" in several["bleu_de"]
    assert "tok:zh" in several["bleu_zh"]


def test_rouge_equals_rouge_score() -> None:
    answers, truths = pairs(50, WORDS, " ")
    answers[0] = ""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    official = [scorer.score(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    summaries = [{"text": "x", "summary": truth} for truth in truths]
    scores = Summarisation().score(predictions(answers), summaries, intervals=True)
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert scores[name].value == pytest.approx(np.mean([score[kind].fmeasure for score in official]))
        assert scores[name].low < scores[name].value < scores[name].high
    assert Summarisation().row_scores(predictions(answers), summaries) == pytest.approx(
        [score["rougeL"].fmeasure for score in official]
    )


def test_of_several_summaries_the_nearest_counts() -> None:
    found = rouge(["a red hat"], [["nothing of it", "a red hat", "red"]])
    assert {name: values.tolist() for name, values in found.items()} == {
        "rouge_1": [1.0],
        "rouge_2": [1.0],
        "rouge_l": [1.0],
    }


def test_rouge_of_chinese_counts_characters_and_not_only_latin_words() -> None:
    found = rouge(["红帽子在磨坊"], [["红帽子在家里。"]])
    assert found["rouge_1"][0] == pytest.approx(2 * 4 / 12)
    assert found["rouge_l"][0] == pytest.approx(2 * 4 / 12)


def test_the_note_on_rouge_tells_what_a_token_is() -> None:
    mixed = [{"text": "x", "summary": "a hat"}, {"text": "x", "summary": ["一顶帽子"]}]
    assert "tok:words+characters" in Summarisation().notes([], mixed)["rouge"]
    assert "tok:words|" in Summarisation().notes([], mixed[:1])["rouge"]


#: A sentence and another one that is wrong in one word or letter, in scripts with spaces and without.
NEARLY = {
    "ru": ("Старая мельница стоит у реки", "Старая мельница стоит у моря"),
    "ar": ("الطاحونة القديمة قرب النهر", "الطاحونة القديمة قرب البحر"),
    "he": ("הטחנה הישנה ליד הנהר", "הטחנה הישנה ליד הים"),
    "hi": ("पुरानी चक्की नदी के पास है", "पुरानी चक्की गाँव के पास है"),
    "el": ("Ο παλιός μύλος δίπλα στο ποτάμι", "Ο παλιός μύλος δίπλα στο χωριό"),
    "ko": ("오래된 방앗간은 강 옆에 있다", "오래된 방앗간은 산 옆에 있다"),
    "ja": ("古い水車は川のそばにある", "古い水車は山のそばにある"),
    "th": ("โรงสีเก่าอยู่ริมแม่น้ำ", "โรงสีใหม่อยู่ริมแม่น้ำ"),
    "km": ("រោងម៉ាស៊ីនចាស់នៅមាត់ទន្លេ", "រោងម៉ាស៊ីនថ្មីនៅមាត់ទន្លេ"),
    "zh": ("旧磨坊在河边的树林里", "旧磨坊在山边的树林里"),
}


@pytest.mark.parametrize("language", NEARLY)
def test_in_every_script_what_is_right_is_1_and_what_is_nearly_right_is_between(language: str) -> None:
    truth, nearly = NEARLY[language]
    scores = rouge([truth, nearly, "zzz"], [[truth]] * 3)
    for name in ("rouge_1", "rouge_l"):
        right, near, wrong = scores[name]
        assert right == pytest.approx(1.0)
        assert 0.5 < near < 1
        assert wrong == 0


def test_a_letter_beyond_ascii_is_a_letter() -> None:
    assert rouge(["Mäller"], [["Müller"]])["rouge_1"].tolist() == [0.0]
    assert rouge(["Müller in Köln"], [["Müller in Kiel"]])["rouge_1"][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's the 2nd_hat, isn't it?", ["it", "s", "the", "2nd", "hat", "isn", "t", "it"]),
        ("买了2个GPU，好_！", ["买", "了", "2", "个", "gpu", "好"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー"]),
        ("नदी के", ["नदी", "के"]),
        ("น้ำ ๑๒", ["น้", "ำ", "๑๒"]),
        ("Mu\u0308ller", ["müller"]),
        ("co\u00adop \u200fשלום\u200f", ["coop", "שלום"]),
        ("…—!", []),
    ],
)
def test_words_are_letters_and_digits_with_their_marks_in_normal_form(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize("language", ["ja", "th", "km"])
def test_bleu_of_a_text_without_spaces_that_is_right_but_for_a_letter_is_not_0(language: str) -> None:
    truth, nearly = NEARLY[language]
    given = rows([truth] * 2)
    bleu = Translation().score(predictions([nearly, truth]), given)["bleu"].value
    by_characters = sacrebleu.corpus_bleu([nearly, truth], [[truth] * 2], tokenize="char").score
    assert 50 < bleu < 100
    assert bleu == pytest.approx(by_characters)
    assert "tok:char" in Translation().notes([], given)["bleu"]


@pytest.mark.parametrize(
    ("language", "text", "tokenizer"),
    [
        ("none", NEARLY["zh"][0], "zh"),
        ("none", NEARLY["ja"][0], "char"),
        ("none", NEARLY["ko"][0], "13a"),
        ("none", NEARLY["hi"][0], "13a"),
        ("none", "他说好的OK。", "zh"),
        ("none", "他说OK, thank you", "13a"),
        ("none", "12 !", "13a"),
        ("zh-CN", "OK", "zh"),
        ("ja_JP", "東京大学", "char"),
        ("jav", "omah lawas", "13a"),
    ],
)
def test_the_language_or_else_the_script_of_most_letters_decides_how_bleu_cuts_texts(
    language: str, text: str, tokenizer: str
) -> None:
    assert bleu_tokenizer(language, [text]) == tokenizer

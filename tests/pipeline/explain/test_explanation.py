import json
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.tokenizer import Bytes
from modules.generation import SamplingOptions
from modules.interpret import COMPLETE
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Decoder, Encoder, EncoderDecoder, Transformer
from pipeline.config.model import build_head
from pipeline.explain.explanation import explain_row
from pipeline.explain.shown import texts_of
from pipeline.tasks.base import GAP
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.chat import Dialogue
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.denoise import SpanDenoising
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.tasks.qa import ExtractiveQA
from pipeline.tasks.summarize import Summarisation
from pipeline.tasks.tag import TokenClassification
from pipeline.tasks.tag.deciding import MOST_DECISIONS

TOKENIZER = Bytes().train([])


def small(kind: type[Transformer], task: object, limit: int = 64) -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(16, n_heads=2)
    options = {"n_token_types": 1} if isinstance(task, ExtractiveQA) else {}
    backbone = kind(
        TOKENIZER.vocab_size, n_layers=1, max_seq_len=limit, layer=layer, position=Rotary(), **options
    )
    node = task.head(backbone) if isinstance(task, FinetuneTask) else {"_target_": "modules.heads.LMHead"}
    model = Model(backbone, build_head(node, backbone)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


class Bag(Transformer):
    """Hidden states are the embeddings, so that a class is decided by words alone."""

    max_seq_len, d_model = 32, 1

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(TOKENIZER.vocab_size, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.embedding(batch["input_ids"])


def test_the_word_that_alone_decides_a_class_gets_all_of_the_attribution() -> None:
    task = TextClassification(label_names=["no", "yes"])
    bag = Bag()
    model = Model(bag, build_head({**task.head(small(Encoder, task).backbone), "d_model": 1}, bag))
    with torch.no_grad():
        bag.embedding.weight.zero_()
        bag.embedding.weight[TOKENIZER.encode("z")[0]] = 6.0
        model.head.classes.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.head.classes.bias.zero_()
    explanation = explain_row(task, model.eval(), TOKENIZER, {"text": "we saw zz, no"})
    (decision,) = explanation.decisions
    assert (explanation.answer, decision.about) == ("yes", "label yes")
    n_tokens = len("we saw zz, no") + 2
    assert {word.text: word.attribution for word in decision.words} == {
        "we": 0, "saw": 0, "zz": pytest.approx(2 * 2 * 6.0 / n_tokens, abs=1e-5), ",": 0, "no": 0,
    }  # fmt: skip
    assert decision.output - decision.baseline_output == pytest.approx(24.0 / n_tokens, abs=1e-5)
    assert [word.text for word in decision.strongest(1)] == ["zz"]


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_the_words_of_an_answer_add_up_to_what_the_model_said_of_it(kind: type[Transformer]) -> None:
    task = ExtractiveQA(unanswerable=True, null_threshold=1e9)
    model = small(kind, task)
    row = {"context": "Theo was in the tower. " * 6, "question": "Where was Theo?"}
    explanation = explain_row(task, model, TOKENIZER, row)
    (decision,) = explanation.decisions
    assert decision.is_complete
    assert decision.gap < COMPLETE
    total = sum(word.attribution for word in decision.words)
    assert total == pytest.approx(decision.output - decision.baseline_output, rel=2e-3)
    assert {word.column for word in decision.words} == {"context", "question"}
    assert all(row[word.column][word.start : word.end] == word.text for word in decision.words)


def test_where_there_is_no_answer_what_says_so_is_explained() -> None:
    task = ExtractiveQA(unanswerable=True, null_threshold=-1e9)
    explanation = explain_row(
        task, small(Encoder, task), TOKENIZER, {"context": "Theo was here.", "question": "Who?"}
    )
    assert explanation.answer == ""
    assert explanation.decisions[0].about == "that there is no answer"


def test_each_label_of_several_is_explained() -> None:
    task = TextClassification(label_names=["a", "b", "c"], multi_label=True, threshold=0.0)
    explanation = explain_row(task, small(Encoder, task), TOKENIZER, {"text": "some words"})
    assert [decision.about for decision in explanation.decisions] == ["label a", "label b", "label c"]


TAGGER = TokenClassification(entity_types=["LOC", "PER"], stride=4)
SENTENCE = "Mila Berg  went to Rome, then  Mila Berg went home"


@pytest.mark.parametrize("tokens", [SENTENCE, SENTENCE.replace(",", " ,").split()], ids=["text", "words"])
@pytest.mark.parametrize("limit", [24, 64], ids=["windows", "one_window"])
def test_the_type_of_an_entity_is_explained_by_words_with_their_characters(
    tokens: str | list[str], limit: int
) -> None:
    model, row = small(Encoder, TAGGER, limit), {"tokens": tokens}
    (prediction,) = TAGGER.predict(model, TOKENIZER, [row], batch_size=1)
    explanation = explain_row(TAGGER, model, TOKENIZER, row)
    found = prediction.details["entities"]
    assert 0 < len(explanation.decisions) == min(len(found), MOST_DECISIONS)
    least = sorted(found, key=lambda entity: entity["confidence"])[:MOST_DECISIONS]
    assert {decision.about.partition(",")[0] for decision in explanation.decisions} == {
        entity["type"] for entity in least
    }
    text = prediction.details["plain_text"]
    assert texts_of(TAGGER, row, explanation) == {"tokens": text}
    for decision in explanation.decisions:
        assert decision.is_complete
        assert {word.text for word in decision.words} <= set(prediction.details["words"])
        assert all(text[word.start : word.end] == word.text for word in decision.words)


def test_the_score_of_an_entity_is_the_log_odds_of_its_type_at_its_first_word() -> None:
    model, row = small(Encoder, TAGGER), {"tokens": ["Mila", "went"]}
    (prediction,) = TAGGER.predict(model, TOKENIZER, [row], batch_size=1)
    ids = torch.tensor([[TOKENIZER.bos_id, *TOKENIZER.encode("Mila went"), TOKENIZER.eos_id]])
    shares = model({"input_ids": ids})[0].detach().double().softmax(-1)
    for entity, decision in zip(
        prediction.details["entities"], TAGGER.decisions(model, TOKENIZER, row, prediction), strict=True
    ):
        at = shares[1 if entity["first_word"] == 0 else 1 + len("Mila")]
        first = 1 + 2 * TAGGER.entity_types.index(entity["type"])
        p = float(at[first : first + 2].sum())
        score = decision.score(model(decision.batch)).item()
        assert score == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
        assert torch.equal(decision.batch["input_ids"], ids)


def test_where_no_word_belongs_to_an_entity_what_says_so_is_explained() -> None:
    model = small(Encoder, TAGGER)
    with torch.no_grad():
        model.head.classes.bias[0] += 1000
    explanation = explain_row(TAGGER, model, TOKENIZER, {"tokens": "nothing here"})
    (decision,) = explanation.decisions
    assert decision.about == "that there is no entity"
    assert decision.output == pytest.approx(0, abs=1e-3)
    assert explanation.attention is not None


WRITERS = [
    (Summarisation(max_target_tokens=8, beams=2), Decoder, {"text": "A text to be summed up."}),
    (Summarisation(max_target_tokens=8), EncoderDecoder, {"text": "A text to be summed up."}),
    (Dialogue(max_reply_tokens=8), Decoder, {"turns": ["Hello?"]}),
    (CausalLM(), Decoder, {"text": "Once"}),
    (MaskedLM(), Encoder, {"text": f"The {GAP} is in the {GAP}."}),
    (SpanDenoising(), EncoderDecoder, {"text": f"The {GAP} is in the {GAP}."}),
]


@pytest.mark.parametrize(("task", "kind", "row"), WRITERS, ids=lambda one: type(one).__name__)
def test_every_token_that_was_written_has_the_probability_that_the_model_gave_it(
    task: object, kind: type[Transformer], row: dict[str, object]
) -> None:
    model = small(kind, task)
    explanation = explain_row(
        task, model, TOKENIZER, row, sampling=SamplingOptions(temperature=0.0, max_new_tokens=8)
    )
    assert explanation.written
    for token in explanation.written:
        assert 0 < token.probability <= 1
        assert token.rank >= 1
        likeliest = [share for _, share in token.alternatives]
        assert likeliest == sorted(likeliest, reverse=True)
        if token.rank == 1:
            assert token.probability == likeliest[0]
    assert not explanation.decisions
    if isinstance(task, FinetuneTask):
        (prediction,) = task.predict(model, TOKENIZER, [row], batch_size=1)
        assert explanation.answer == prediction.text


def test_attention_rows_are_distributions_over_the_tokens_that_are_named() -> None:
    task = Summarisation(max_target_tokens=6)
    explanation = explain_row(task, small(EncoderDecoder, task), TOKENIZER, {"text": "A text."})
    attention = explanation.attention
    assert attention is not None
    assert attention.tokens["input_ids"][:3] == ["<bos>", "A", "␣"]
    cross = torch.tensor(attention.heads["decoder.cross_attn"])
    assert cross.shape[1:] == (len(explanation.written), len("A text.") + 2)
    torch.testing.assert_close(cross.sum(-1), torch.ones(cross.shape[:2]), rtol=0, atol=2e-3)


def test_without_text_no_word_of_the_row_is_left_and_a_record_is_json() -> None:
    task = TextClassification(label_names=["no", "yes"])
    explanation = explain_row(task, small(Encoder, task), TOKENIZER, {"text": "secret words"})
    whole = json.dumps(explanation.record())
    assert "secret" in whole
    assert '"baseline": "<pad>"' in whole
    hidden = explanation.without_text(keep_answer=True)
    assert hidden.answer == explanation.answer
    assert not any(text in json.dumps(hidden.record()) for text in ("secret", "␣", '"s"'))
    assert [word.title for word in hidden.decisions[0].words] == ["#1-6", "#7-12"]
    assert hidden.without_text().answer is None


@pytest.mark.parametrize("task", [MaskedLM(), SpanDenoising()])
def test_a_text_without_a_gap_is_refused_by_a_model_that_fills_gaps(task: object) -> None:
    kind = Encoder if isinstance(task, MaskedLM) else EncoderDecoder
    with pytest.raises(DataError, match=f"has no {GAP}"):
        explain_row(task, small(kind, task), TOKENIZER, {"text": "no gap"})


def test_a_prompt_longer_than_the_model_reads_is_refused() -> None:
    with pytest.raises(DataError, match="65 tokens, including special tokens; expected at most 64"):
        explain_row(CausalLM(), small(Decoder, CausalLM()), TOKENIZER, {"text": "x" * 64})

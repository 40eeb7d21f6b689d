import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.heads import LMHead, PooledClassifier, SpanHead
from modules.init import initialize
from modules.layers import LayerSpec
from modules.model import Model
from modules.transformer import Decoder

BATCH = {"attention_mask": torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])}


@pytest.fixture
def model(build) -> Model:
    backbone = build(Decoder)
    return Model(backbone, LMHead(backbone.embedding))


def is_tied(model: Model) -> bool:
    return model.head.weight is model.backbone.embedding.weight


def test_the_tied_weight_is_one_tensor_counted_saved_and_optimised_once(model):
    assert is_tied(model)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name in names if "embedding" in name or "head" in name] == ["backbone.embedding.weight"]
    assert list(model.state_dict()) == names
    assert model.head.weight in set(model.head.parameters())


def test_the_tied_weight_stays_one_tensor_through_loading_files_copies_and_devices(model, tmp_path, ids):
    x = {"input_ids": ids(2, 6)}
    before = model(x)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        backbone = Decoder(
            50, n_layers=2, max_seq_len=64, layer=LayerSpec(32, n_heads=4), position=model.backbone.position
        )
        loaded = Model(backbone, LMHead(backbone.embedding))
    loaded.to_empty(device="cpu")
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert is_tied(loaded)
    assert torch.equal(loaded(x), before)
    twin = copy.deepcopy(model)
    assert is_tied(twin)
    assert twin.head.weight is not model.head.weight
    assert is_tied(model.to(torch.float64))


def test_gradients_of_embedding_and_head_meet_in_the_one_tensor(build, ids):
    backbone, x = build(Decoder), {"input_ids": ids(2, 6)}
    loose = torch.nn.Linear(32, 50, bias=False)
    loose.weight.data.copy_(backbone.embedding.weight)
    loose(backbone(x)).square().sum().backward()
    expected = backbone.embedding.weight.grad + loose.weight.grad
    backbone.zero_grad()
    Model(backbone, LMHead(backbone.embedding))(x).square().sum().backward()
    torch.testing.assert_close(backbone.embedding.weight.grad, expected)


def test_logits_are_float32_products_with_the_embedding(build, ids):
    backbone, x = build(Decoder), {"input_ids": ids(2, 6)}
    head = LMHead(backbone.embedding, bias=True)
    torch.nn.init.normal_(head.bias)
    hidden = backbone(x)
    torch.testing.assert_close(head(hidden), hidden @ backbone.embedding.weight.T + head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(hidden).dtype == torch.float32
    assert head(hidden[0, :3]).shape == (3, 50)


def test_the_soft_cap_bounds_logits_and_keeps_their_order():
    embedding = torch.nn.Embedding(9, 4)
    hidden = 30 * torch.randn(5, 4)
    plain, capped = LMHead(embedding)(hidden), LMHead(embedding, softcap=15.0)(hidden)
    torch.testing.assert_close(capped, 15 * torch.tanh(plain / 15))
    assert capped.abs().max() <= 15
    with pytest.raises(ValueError, match=r"softcap is 0\.0; expected more than 0"):
        LMHead(embedding, softcap=0.0)


def test_a_fresh_default_model_gives_nearly_uniform_words_under_a_random_context(build):
    backbone = build(Decoder)
    initialize(backbone)
    hidden = torch.nn.functional.normalize(torch.randn(1000, 32), dim=-1)
    log_p = LMHead(backbone.embedding)(hidden).log_softmax(-1)
    assert abs(-log_p.mean() - torch.tensor(50.0).log()) < 0.05


@pytest.mark.parametrize(("pooling", "expected"), [("first", [0, 1]), ("last", [2, 3])])
def test_a_row_is_classified_by_its_first_or_last_real_token(pooling, expected):
    hidden, head = torch.randn(3, 4, 8), PooledClassifier(8, n_classes=5, pooling=pooling)
    logits = head(hidden, BATCH)
    torch.testing.assert_close(logits[:2], head.classes(hidden[[0, 1], expected]))
    assert logits.isfinite().all()


def test_a_row_is_classified_by_the_mean_of_its_real_tokens():
    hidden, head = torch.randn(3, 4, 8), PooledClassifier(8, n_classes=5, pooling="mean")
    logits = head(hidden, BATCH)
    torch.testing.assert_close(logits[0], head.classes(hidden[0, :3].mean(0)))
    torch.testing.assert_close(logits[1], head.classes(hidden[1, 1:].mean(0)))
    assert logits.isfinite().all()
    torch.testing.assert_close(head(hidden, {}), head.classes(hidden.mean(1)))


def test_padding_does_not_reach_the_classes():
    hidden, head = torch.randn(3, 4, 8), PooledClassifier(8, n_classes=5)
    before = head(hidden, BATCH)
    hidden[0, 3] += 100
    torch.testing.assert_close(head(hidden, BATCH), before)


def test_a_classifier_of_no_classes_is_refused():
    with pytest.raises(ValueError, match="n_classes is 0; expected at least 1"):
        PooledClassifier(8, n_classes=0)


def test_spans_stay_inside_the_passage_and_end_after_they_begin():
    hidden, head = torch.randn(64, 10, 8), SpanHead(8)
    passage = torch.zeros(64, 10, dtype=torch.int64)
    passage[:, 4:9] = 1
    logits = head(hidden, {"passage_mask": passage})
    assert (logits.softmax(1)[:, [0, 1, 2, 3, 9]] == 0).all()
    first, last = head.best_spans(logits, max_answer_tokens=3).unbind(1)
    assert (first >= 4).all()
    assert (last <= 8).all()
    assert ((last - first >= 0) & (last - first < 3)).all()


def searched_spans(logits: torch.Tensor, max_answer_tokens: int) -> list[tuple[float, int, int]]:
    """All spans of one row (T, 2) with their scores, best first."""
    n = len(logits)
    spans = [(a, b) for a in range(n) for b in range(a, min(a + max_answer_tokens, n))]
    return sorted(((float(logits[a, 0] + logits[b, 1]), a, b) for a, b in spans), reverse=True)


@pytest.mark.parametrize("max_answer_tokens", [1, 4, 6, 30])
def test_the_best_spans_are_those_of_a_search_over_all(max_answer_tokens):
    logits = torch.randn(20, 6, 2)
    spans, scores = SpanHead.n_best_spans(logits, n=5, max_answer_tokens=max_answer_tokens)
    best = SpanHead.best_spans(logits, max_answer_tokens=max_answer_tokens)
    for row in range(20):
        expected = searched_spans(logits[row], max_answer_tokens)[:5]
        assert [tuple(span) for span in spans[row].tolist()] == [(a, b) for _, a, b in expected]
        assert scores[row].tolist() == pytest.approx([score for score, _, _ in expected])
        assert best[row].tolist() == [expected[0][1], expected[0][2]]


def test_no_span_is_at_the_token_that_stands_for_no_answer_but_it_has_a_score():
    logits = torch.randn(2, 7, 2)
    null = torch.tensor([0, 6])
    logits[0, 0] = logits[1, 6] = 9.0
    spans, scores = SpanHead.n_best_spans(logits, n=30, max_answer_tokens=7, null=null)
    found = scores > -torch.inf
    assert found.sum(dim=1).tolist() == [21, 21]  # 6 tokens have 6 * 7 / 2 spans
    assert (spans[0][found[0]] >= 1).all()
    assert (spans[1][found[1]] <= 5).all()
    assert SpanHead.null_scores(logits, null).tolist() == [18.0, 18.0]


def test_where_there_are_fewer_spans_than_asked_for_the_others_score_minus_infinity():
    head = SpanHead(8)
    passage = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    logits = head(torch.randn(2, 5, 8), {"passage_mask": passage})
    spans, scores = head.n_best_spans(logits, n=40, max_answer_tokens=3)
    assert (scores > -torch.inf).sum(dim=1).tolist() == [3, 0]
    assert {tuple(span) for span in spans[0, :3].tolist()} == {(2, 2), (2, 3), (3, 3)}
    assert (spans < 5).all()


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_padding_on_either_side_gives_the_same_classes(build, ids, pooling):
    x, backbone = ids(1, 5), build(Decoder)
    model = Model(backbone, PooledClassifier(32, n_classes=3, pooling=pooling))
    pad = torch.zeros(1, 3, dtype=torch.int64)
    expected = model({"input_ids": x})
    for parts in ((pad, x), (x, pad)):
        batch = {
            "input_ids": torch.cat(parts, dim=1),
            "attention_mask": torch.cat([(part is x) * torch.ones_like(part) for part in parts], dim=1),
        }
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_under_bfloat16_autocast_logits_are_float32_and_can_be_trained(build, ids, pooling):
    backbone, x = build(Decoder), ids(3, 4)
    classifier = Model(backbone, PooledClassifier(32, n_classes=3, pooling=pooling))
    spans = Model(backbone, SpanHead(32))
    batch = {**BATCH, "input_ids": x, "passage_mask": BATCH["attention_mask"]}
    for model in (classifier, spans):
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits[:2], exact[:2], atol=0.1, rtol=0.1)
        logits.logsumexp(dim=1).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())

"""The chunked loss is `F.cross_entropy` over all logits at once, in value and in gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.heads import LMHead, TransformedLMHead
from modules.losses import (
    CHUNK_TOKENS,
    IGNORE_INDEX,
    PADDED_TO,
    balanced_weights,
    chunks_as_on_gpu,
    fast_chunk_tokens,
    product_chunk_tokens,
    span_loss,
    token_loss,
)

B, T, D, V = 3, 7, 8, 11


def make_case(**head_options: float | bool) -> tuple[Tensor, LMHead, nn.Embedding, Tensor, Tensor]:
    torch.manual_seed(0)
    embedding = nn.Embedding(V, D)
    head = LMHead(embedding, **head_options)
    hidden = (3 * torch.randn(B, T, D)).requires_grad_()
    labels = torch.randint(V, (B, T))
    labels[torch.rand(B, T) < 0.4] = IGNORE_INDEX
    return hidden, head, embedding, labels, (labels.flatten() != IGNORE_INDEX).nonzero().flatten()


def plain_loss(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    logits = head(hidden.flatten(0, 1)).float()
    return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def gradients(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss / 5, tensors))


@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 1000])
@pytest.mark.parametrize("head_options", [{}, {"softcap": 2.0}, {"bias": True}])
@pytest.mark.parametrize("with_index", [True, False])
def test_chunks_give_the_loss_and_gradients_of_plain_cross_entropy(
    chunk_tokens: int, head_options: dict[str, float], with_index: bool
) -> None:
    hidden, head, embedding, labels, index = make_case(**head_options)
    tensors = (hidden, embedding.weight, *head.parameters())
    nats, n_tokens = token_loss(
        hidden, head, labels, index if with_index else None, chunk_tokens=chunk_tokens
    )
    expected = plain_loss(hidden, head, labels)
    assert n_tokens == index.numel()
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradients(nats, *tensors), gradients(expected, *tensors))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head_options", [{}, {"bias": True}])
def test_a_label_whose_probability_underflows_has_its_exact_loss(
    head_options: dict[str, bool], label_smoothing: float
) -> None:
    hidden, head, embedding, labels, index = make_case(**head_options)
    hidden = (hidden.detach() * 1e4).requires_grad_()
    nats, _ = token_loss(hidden, head, labels, index, label_smoothing=label_smoothing)
    logits = head(hidden.flatten(0, 1)).double()
    expected = F.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=label_smoothing)
    assert expected > 1000 * len(index)
    torch.testing.assert_close(nats.double(), expected, rtol=1e-6, atol=0)
    tensors = (hidden, embedding.weight)
    torch.testing.assert_close(gradients(nats, *tensors), gradients(expected, *tensors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_what_all_logits_have_in_common_does_not_round_the_loss(label_smoothing: float) -> None:
    hidden, head, _, labels, index = make_case(bias=True)
    with torch.no_grad():
        head.bias += 2.0**13  # not so large that the logits themselves lose much
        logits = head(hidden.flatten(0, 1))
    nats, _ = token_loss(hidden, head, labels, index, label_smoothing=label_smoothing)
    expected = F.cross_entropy(
        logits.double(), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    )
    torch.testing.assert_close(nats.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_under_bfloat16_autocast_chunks_differ_from_plain_by_rounding_only(softcap: float | None) -> None:
    hidden, head, embedding, labels, index = make_case(softcap=softcap)
    with torch.autocast("cpu", torch.bfloat16):
        nats, _ = token_loss(hidden, head, labels, index, chunk_tokens=4)
        expected = plain_loss(hidden, head, labels)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(
        gradients(nats, hidden, embedding.weight),
        gradients(expected, hidden, embedding.weight),
        rtol=2e-2,
        atol=2e-2,
    )


def test_bfloat16_hidden_states_get_bfloat16_gradients() -> None:
    hidden, head, embedding, labels, index = make_case()
    low = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        nats, _ = token_loss(low, head, labels, index, chunk_tokens=4)
    grads = gradients(nats, low, embedding.weight)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32]


def test_uniform_logits_cost_ln_v_for_each_token() -> None:
    _, head, embedding, labels, index = make_case()
    nn.init.zeros_(embedding.weight)
    nats, n_tokens = token_loss(torch.randn(B, T, D), head, labels, index, chunk_tokens=4)
    assert nats.item() / n_tokens == pytest.approx(math.log(V))


def test_a_tied_embedding_gets_the_gradients_of_both_its_uses() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(V, D)
    head = LMHead(embedding)
    ids = torch.randint(V, (B, T))

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        (grad,) = torch.autograd.grad(loss(embedding(ids).tanh()), embedding.weight)
        return grad

    chunked = gradient(lambda hidden: token_loss(hidden, head, ids, chunk_tokens=4)[0])
    torch.testing.assert_close(chunked, gradient(lambda hidden: plain_loss(hidden, head, ids)))


def test_a_frozen_head_still_passes_the_gradient_on_to_the_hidden_states() -> None:
    hidden, head, embedding, labels, index = make_case()
    embedding.weight.requires_grad_(False)
    nats, _ = token_loss(hidden, head, labels, index, chunk_tokens=4)
    torch.testing.assert_close(gradients(nats, hidden), gradients(plain_loss(hidden, head, labels), hidden))


def test_a_frozen_backbone_leaves_the_gradient_of_the_head() -> None:
    hidden, head, embedding, labels, index = make_case()
    nats, _ = token_loss(hidden.detach(), head, labels, index, chunk_tokens=4)
    expected = gradients(plain_loss(hidden, head, labels), embedding.weight)
    torch.testing.assert_close(gradients(nats, embedding.weight), expected)


@pytest.mark.parametrize("chunk_tokens", [4, 1000])
def test_without_gradients_the_loss_is_the_same(chunk_tokens: int) -> None:
    hidden, head, _, labels, index = make_case()
    with torch.no_grad():
        nats, _ = token_loss(hidden, head, labels, index, chunk_tokens=chunk_tokens)
    assert not nats.requires_grad
    torch.testing.assert_close(nats, plain_loss(hidden, head, labels).detach())


@pytest.mark.parametrize("with_index", [True, False])
def test_a_batch_without_labels_costs_nothing_and_has_gradients_of_0(with_index: bool) -> None:
    hidden, head, embedding, labels, _ = make_case()
    index = torch.zeros(0, dtype=torch.int64) if with_index else None
    nats, n_tokens = token_loss(hidden, head, torch.full_like(labels, IGNORE_INDEX), index, chunk_tokens=4)
    assert (nats.item(), n_tokens) == (0.0, 0)
    assert all(not grad.any() for grad in gradients(nats, hidden, embedding.weight))


def test_no_head_call_sees_more_than_one_chunk_and_rows_are_padded_to_few_shapes() -> None:
    hidden, head, _, labels, index = make_case(bias=True)  # a head that is more than a product
    n_rows: list[int] = []
    head.register_forward_hook(lambda _module, inputs, _logits: n_rows.append(inputs[0].shape[0]))
    token_loss(hidden, head, labels, index, chunk_tokens=4)[0].backward()
    probe, *chunks = n_rows
    assert probe <= 2
    assert max(chunks) <= 4
    assert sum(chunks) == PADDED_TO >= index.numel()


@pytest.mark.parametrize("head_options", [{}, {"bias": True}])
def test_what_is_ignored_may_be_infinite_and_a_label_that_is_no_token_is_an_error(
    head_options: dict[str, bool],
) -> None:
    hidden, head, _, labels, _ = make_case(**head_options)
    with torch.no_grad():
        hidden[labels == IGNORE_INDEX] = torch.inf
    nats, _ = token_loss(hidden, head, labels, chunk_tokens=4)
    assert nats.isfinite()
    labels[0, 0] = -1
    with pytest.raises((RuntimeError, IndexError)):
        token_loss(hidden, head, labels, chunk_tokens=4)


def test_only_a_head_that_is_one_product_of_its_weights_is_computed_as_one() -> None:
    embedding = nn.Embedding(V, D)
    assert LMHead(embedding).is_product
    assert LMHead(embedding, tied=False).is_product
    quantized = LMHead(embedding)
    quantized.product = nn.Identity()
    transformed = TransformedLMHead(embedding, activation="gelu")
    others = (quantized, transformed, LMHead(embedding, bias=True), LMHead(embedding, softcap=2.0))
    assert not any(head.is_product for head in others)


def test_chunks_have_as_many_tokens_as_the_width_on_a_cpu_and_1024_on_a_gpu() -> None:
    sizes = [fast_chunk_tokens(torch.empty(0, width)) for width in (32, 128, 384, 768, 4096)]
    assert sizes == [256, 256, 512, 768, 1024]
    with chunks_as_on_gpu():
        assert fast_chunk_tokens(torch.empty(0, 128)) == CHUNK_TOKENS == 1024
    assert fast_chunk_tokens(torch.empty(0, 128, device="meta")) == CHUNK_TOKENS


def test_chunks_of_a_product_have_more_tokens_if_the_vocabulary_is_small() -> None:
    def sizes(width: int) -> list[int]:
        vocabularies = (65, 2048, 8192, 50_304)
        return [
            product_chunk_tokens(torch.empty(0, width), torch.empty(vocab_size, width, device="meta"))
            for vocab_size in vocabularies
        ]

    assert sizes(128) == [4096, 256, 256, 256]
    assert sizes(768) == [4096, 768, 768, 768]
    with torch.autocast("cpu", torch.bfloat16):
        assert sizes(128) == [4096, 2048, 512, 256]
        assert sizes(768) == [4096, 2048, 768, 768]
        with chunks_as_on_gpu():
            assert sizes(128) == [CHUNK_TOKENS] * 4


def test_a_loss_scale_scales_the_gradients_and_backward_can_run_twice() -> None:
    hidden, head, embedding, labels, index = make_case()
    nats, _ = token_loss(hidden, head, labels, index, chunk_tokens=4)
    once = torch.autograd.grad(nats, embedding.weight, retain_graph=True)[0]
    scaled = torch.autograd.grad(nats * 1024, embedding.weight)[0]
    torch.testing.assert_close(scaled, once * 1024)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("label_smoothing", [0.1, 1.0])
@pytest.mark.parametrize("head_options", [{}, {"softcap": 2.0, "bias": True}])
def test_smoothed_labels_give_the_loss_and_gradients_of_plain_cross_entropy(
    chunk_tokens: int, with_index: bool, label_smoothing: float, head_options: dict[str, float]
) -> None:
    hidden, head, embedding, labels, index = make_case(**head_options)
    tensors = (hidden, embedding.weight, *head.parameters())
    chosen = index if with_index else None
    nats, n_tokens = token_loss(
        hidden, head, labels, chosen, label_smoothing=label_smoothing, chunk_tokens=chunk_tokens
    )
    logits = head(hidden.flatten(0, 1)).float()
    options = {"ignore_index": IGNORE_INDEX, "reduction": "sum", "label_smoothing": label_smoothing}
    expected = F.cross_entropy(logits, labels.flatten(), **options)
    assert n_tokens == index.numel()
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradients(nats, *tensors), gradients(expected, *tensors))
    with torch.no_grad():
        again, _ = token_loss(
            hidden, head, labels, chosen, label_smoothing=label_smoothing, chunk_tokens=chunk_tokens
        )
    torch.testing.assert_close(again, expected)


def test_the_loss_of_spans_is_the_mean_cross_entropy_of_both_ends_summed_over_rows() -> None:
    logits = torch.randn(5, 9, 2, requires_grad=True)
    starts, ends = torch.tensor([0, 1, 2, 3, 8]), torch.tensor([0, 4, 2, 8, 8])
    nats = span_loss(logits, starts, ends)
    expected = sum(
        F.cross_entropy(logits[:, :, side], at, reduction="sum") for side, at in enumerate((starts, ends))
    )
    torch.testing.assert_close(nats, expected / 2)
    torch.testing.assert_close(gradients(nats, logits), gradients(expected / 2, logits))
    assert span_loss(torch.zeros(3, 9, 2), starts[:3], ends[:3]).item() == pytest.approx(3 * math.log(9))


def test_balanced_weights_give_each_class_the_same_say_and_have_mean_1_over_the_rows() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(labels.bincount())
    assert weights[labels].mean().item() == pytest.approx(1.0)
    assert [weights[c].item() * n for c, n in enumerate((6, 3, 1))] == pytest.approx([10 / 3] * 3)
    logits = torch.randn(10, 3)
    nats = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
    torch.testing.assert_close(nats / 10, F.cross_entropy(logits, labels, weight=weights))


def test_a_class_without_rows_has_no_balanced_weight() -> None:
    with pytest.raises(ValueError, match=r"classes \[1\] have no rows; expected a row of each class"):
        balanced_weights(torch.tensor([3, 0, 2]))

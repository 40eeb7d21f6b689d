from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modules.heads import LMHead, PooledClassifier
from modules.interpret import (
    COMPLETE,
    AttentionRecorder,
    integrated_gradients,
    token_choices,
)
from modules.model import Model
from modules.positions import Position
from modules.transformer import Decoder, Encoder, EncoderDecoder, Transformer

IDS = torch.tensor([[5, 6, 7, 8, 9, 3]])
PACKED = {"input_ids": IDS, "segment_ids": torch.tensor([[1, 1, 1, 2, 2, 0]])}


def recorded(model: nn.Module, batch: dict[str, Tensor]) -> AttentionRecorder:
    with torch.no_grad(), AttentionRecorder(model).recording() as recorder:
        model(batch)
    return recorder


def weights_by_definition(attention: nn.Module, x: Tensor, allowed: Tensor) -> Tensor:
    """One query, one head after the other."""
    q, k = (
        projection(x)[0].reshape(x.shape[1], attention.n_heads, -1)
        for projection in (attention.q_proj, attention.k_proj)
    )
    found = torch.zeros(attention.n_heads, x.shape[1], x.shape[1])
    for head in range(attention.n_heads):
        for query in range(x.shape[1]):
            keys = [key for key in range(x.shape[1]) if allowed[query, key]]
            scores = [
                attention.q_norm(q[query, head]) @ attention.k_norm(k[key, head]) / q.shape[-1] ** 0.5
                for key in keys
            ]
            found[head, query, keys] = torch.stack(scores).softmax(0)
    return found


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_recorded_weights_are_those_of_the_definition(kind: type, build: Callable[..., nn.Module]) -> None:
    model, inputs = build(kind, position=Position()).eval(), []
    layer = model.stack.layers[-1]
    layer.self_attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    recorder = recorded(model, PACKED)
    segments = PACKED["segment_ids"][0]
    allowed = segments[:, None] == segments[None]
    if kind is Decoder:
        allowed = allowed.tril()
    expected = weights_by_definition(layer.self_attn, inputs[0], allowed)
    torch.testing.assert_close(recorder.weights["stack.layers.1.self_attn"][0], expected)
    assert recorder.last_layer().keys() == {"stack.self_attn"}


def test_recorded_weights_explain_the_output_for_every_position_scheme(
    position: Position, build: Callable[..., nn.Module]
) -> None:
    model, seen = build(Decoder, position=position).eval(), []
    attention = model.stack.layers[-1].self_attn
    attention.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    weights = recorded(model, {"input_ids": IDS}).last_layer()["stack.self_attn"]
    ((x, output),) = seen
    values = attention.v_proj(x).unflatten(-1, (attention.n_kv_heads, attention.head_size)).transpose(1, 2)
    values = values.repeat_interleave(attention.n_heads // attention.n_kv_heads, dim=1)
    expected = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_each_stack_of_an_encoder_decoder_has_its_own_weights(build: Callable[..., nn.Module]) -> None:
    batch = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
    last = recorded(build(EncoderDecoder).eval(), batch).last_layer()
    shapes = {name: tuple(weights.shape[2:]) for name, weights in last.items()}
    assert shapes == {"encoder.self_attn": (6, 6), "decoder.self_attn": (4, 4), "decoder.cross_attn": (4, 6)}
    for weights in last.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


def test_recording_changes_no_output_and_leaves_no_hook(build: Callable[..., nn.Module]) -> None:
    model = build(Decoder).eval()
    before = model({"input_ids": IDS})
    recorder = AttentionRecorder(model)
    with recorder.recording():
        assert torch.equal(model({"input_ids": IDS}), before)
    kept = dict(recorder.weights)
    model({"input_ids": IDS.flip(1)})
    assert all(recorder.weights[name] is weights for name, weights in kept.items())


def test_a_model_without_attention_has_nothing_to_record() -> None:
    model = nn.Linear(2, 2)
    with AttentionRecorder(model).recording() as recorder:
        model(torch.zeros(1, 2))
    assert recorder.last_layer() == {}


class Bag(Transformer):
    """Hidden states are the embeddings themselves."""

    def __init__(self, d_model: int = 3) -> None:
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(10, d_model)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.embedding(batch["input_ids"])


def test_attributions_of_a_linear_model_are_its_weights_times_the_change_of_each_embedding() -> None:
    bag, head = Bag(), nn.Linear(3, 2)
    model = Model(bag, Head(head))
    batch, baseline = {"input_ids": torch.tensor([[4, 5, 6]])}, torch.tensor([[0, 5, 0]])
    found = integrated_gradients(model, batch, lambda logits: logits[:, 1], baseline=baseline)
    change = bag.embedding(batch["input_ids"]) - bag.embedding(baseline)
    torch.testing.assert_close(found.values.float(), (change @ head.weight[1] / 3)[0].detach())
    assert found.values[1] == 0, "a token that stays says nothing"
    assert found.is_complete
    assert found.n_steps == 33, "eight parts with five points each, of which neighbours share one"


class Head(nn.Module):
    """The mean of the hidden states through another module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor, batch: object = None) -> Tensor:
        return self.inner(hidden.mean(dim=1))


def test_attributions_of_a_transformer_are_complete_and_those_of_captum(
    build: Callable[..., nn.Module],
) -> None:
    from captum.attr import LayerIntegratedGradients

    model = Model(build(Encoder), PooledClassifier(32, n_classes=3, pooling="last")).eval()
    baseline = torch.tensor([[0, 0, 0, 0, 0, 3]])
    found = integrated_gradients(model, {"input_ids": IDS}, lambda logits: logits[:, 2], baseline=baseline)
    assert found.gap < COMPLETE
    assert found.output == pytest.approx(model({"input_ids": IDS})[0, 2].item(), rel=1e-5)
    method = LayerIntegratedGradients(lambda ids: model({"input_ids": ids})[:, 2], model.backbone.embedding)
    expected = method.attribute(IDS, baselines=baseline, n_steps=300).sum(dim=-1)[0]
    torch.testing.assert_close(found.values.float(), expected, rtol=1e-3, atol=2e-4)


class Steep(nn.Module):
    """Changes in a hundredth of the way, and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(400 * (x - 0.37))


def steep_model(head: nn.Module) -> Model:
    model = Model(Bag(1), Head(head))
    with torch.no_grad():
        model.backbone.embedding.weight.copy_(torch.arange(10.0)[:, None])
    return model


def test_points_are_taken_where_the_number_changes() -> None:
    batch, baseline = {"input_ids": torch.tensor([[1]])}, torch.tensor([[0]])
    found = integrated_gradients(steep_model(Steep()), batch, lambda x: x[:, 0], baseline=baseline)
    assert found.is_complete
    assert found.n_steps < 80, "evenly spread, more than 400 would be needed"
    assert float(found.values) == pytest.approx(1.0, abs=COMPLETE)


def test_an_incomplete_sum_is_said_to_be_so_when_the_steps_end() -> None:
    batch, baseline = {"input_ids": torch.tensor([[1]])}, torch.tensor([[0]])
    found = integrated_gradients(
        steep_model(Steep()), batch, lambda x: x[:, 0], baseline=baseline, most_steps=40
    )
    assert found.n_steps == 39
    assert not found.is_complete
    assert found.gap > COMPLETE


def test_each_labelled_token_has_its_probability_its_rank_and_the_likeliest_ones(
    build: Callable[..., nn.Module],
) -> None:
    backbone = build(Decoder)
    model = Model(backbone, LMHead(backbone.embedding)).eval()
    labels = torch.tensor([[-100, 7, 8, -100, 3, 4]])
    found = token_choices(model, {"input_ids": IDS, "labels": labels}, n_best=2, ignored=-100)
    shares = model({"input_ids": IDS})[0].detach().double().softmax(-1)
    for place, (position, token) in enumerate([(1, 7), (2, 8), (4, 3), (5, 4)]):
        order = shares[position].argsort(descending=True)
        assert found.ids[place] == token
        assert found.probabilities[place] == pytest.approx(float(shares[position, token]))
        assert order[found.ranks[place]] == token
        assert found.best_ids[place].tolist() == order[:2].tolist()
        assert found.best_probabilities[place, 0] == pytest.approx(float(shares[position].max()))

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modules.interpret import AttentionRecorder
from modules.positions import Position
from modules.transformer import Decoder, Encoder, EncoderDecoder

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

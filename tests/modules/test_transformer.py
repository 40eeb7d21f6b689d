import subprocess
import sys

import pytest
import torch
from torch import nn

from modules.layers import LayerSpec
from modules.positions import ALiBi, Learned, Position, Rotary, SinusoidalPlusLearned
from modules.transformer import Decoder, Encoder, EncoderDecoder

D_MODEL, N_HEADS, N_LAYERS = 32, 4, 2
TUTORIAL = {"norm": "layer", "norm_first": False, "activation": "relu", "qk_norm": False, "bias": True}


# --- the tutorial's transformer is torch.nn's


def tutorial_layer(**changes: object) -> LayerSpec:
    return LayerSpec(D_MODEL, n_heads=N_HEADS, **{**TUTORIAL, **changes})


def copy_attention(ours: nn.Module, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
    theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    copy_attention(ours.self_attn, theirs.self_attn)
    norms = [ours.self_attn_norm, ours.ffn_norm]
    if ours.cross_attn is not None:
        copy_attention(ours.cross_attn, theirs.multihead_attn)
        norms.insert(1, ours.cross_attn_norm)
    for i, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(ours.ffn.up_proj.state_dict())
    theirs.linear2.load_state_dict(ours.ffn.down_proj.state_dict())


def torch_twin(stack: nn.Module, spec: LayerSpec, *, cross: bool = False) -> nn.Module:
    """torch.nn's stack of layers with the weights of ours."""
    kind, whole = (
        (nn.TransformerDecoderLayer, nn.TransformerDecoder)
        if cross
        else (nn.TransformerEncoderLayer, nn.TransformerEncoder)
    )
    layer = kind(
        D_MODEL, N_HEADS, spec.ffn_size, 0.0, spec.activation, batch_first=True, norm_first=spec.norm_first
    )
    options = {} if cross else {"enable_nested_tensor": False}
    twin = whole(layer, N_LAYERS, nn.LayerNorm(D_MODEL) if spec.norm_first else None, **options)
    with torch.no_grad():
        for ours, theirs in zip(stack.layers, twin.layers, strict=True):
            copy_layer(ours, theirs)
        if spec.norm_first:
            twin.norm.load_state_dict(stack.norm.state_dict())
    return twin


def compare_gradients(stack: nn.Module, twin: nn.Module) -> None:
    for ours, theirs in zip(stack.layers, twin.layers, strict=True):
        projections = (ours.self_attn.q_proj, ours.self_attn.k_proj, ours.self_attn.v_proj)
        pairs = [
            (torch.cat([p.weight.grad for p in projections]), theirs.self_attn.in_proj_weight.grad),
            (torch.cat([p.bias.grad for p in projections]), theirs.self_attn.in_proj_bias.grad),
            (ours.self_attn.out_proj.weight.grad, theirs.self_attn.out_proj.weight.grad),
            (ours.self_attn_norm.weight.grad, theirs.norm1.weight.grad),
            (ours.ffn.up_proj.weight.grad, theirs.linear1.weight.grad),
            (ours.ffn.down_proj.bias.grad, theirs.linear2.bias.grad),
        ]
        if ours.cross_attn is not None:
            cross = ours.cross_attn
            weights = [p.weight.grad for p in (cross.q_proj, cross.k_proj, cross.v_proj)]
            pairs.append((torch.cat(weights), theirs.multihead_attn.in_proj_weight.grad))
        for mine, truth in pairs:
            torch.testing.assert_close(mine, truth)


def embedded(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Sections 3.4 and 3.5 and the tutorial's learned vector, in the open."""
    return model.position.embed(model.embedding(ids), torch.arange(ids.shape[1])[None])


@pytest.fixture(params=[{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
def spec(request: pytest.FixtureRequest) -> LayerSpec:
    return tutorial_layer(**request.param)


@pytest.fixture
def tutorial(build, spec):
    """The tutorial's transformer in float64, so that nothing hides in rounding."""

    def _build(kind: type[nn.Module]) -> nn.Module:
        return build(kind, layer=spec, position=SinusoidalPlusLearned(D_MODEL, max_seq_len=64)).double()

    return _build


REAL = torch.arange(9) < torch.tensor([[9], [6], [2]])
FUTURE = torch.ones(9, 9, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("padded", [False, True])
def test_the_encoder_equals_torchs_in_value_and_gradients(tutorial, spec, ids, padded):
    model, x = tutorial(Encoder), ids(3, 9)
    twin = torch_twin(model.stack, spec).double()
    real = REAL if padded else torch.ones_like(REAL)
    ours = model({"input_ids": x, **({"attention_mask": real.long()} if padded else {})})
    theirs = twin(embedded(model, x), src_key_padding_mask=~real if padded else None)
    torch.testing.assert_close(ours[real], theirs[real])
    weights = torch.randn(9, D_MODEL).double()
    (ours * weights)[real].sum().backward()
    (theirs * weights)[real].sum().backward()
    compare_gradients(model.stack, twin)


@pytest.mark.parametrize("padded", [False, True])
def test_the_decoder_equals_torchs_with_a_causal_mask_in_value_and_gradients(tutorial, spec, ids, padded):
    model, x = tutorial(Decoder), ids(3, 9)
    twin = torch_twin(model.stack, spec).double()
    real = REAL if padded else torch.ones_like(REAL)
    ours = model({"input_ids": x, **({"attention_mask": real.long()} if padded else {})})
    theirs = twin(embedded(model, x), mask=FUTURE, src_key_padding_mask=~real if padded else None)
    torch.testing.assert_close(ours[real], theirs[real])
    weights = torch.randn(9, D_MODEL).double()
    (ours * weights)[real].sum().backward()
    (theirs * weights)[real].sum().backward()
    compare_gradients(model.stack, twin)


@pytest.mark.parametrize("padded", [False, True])
def test_the_encoder_decoder_equals_torchs_in_value_and_gradients(tutorial, spec, ids, padded):
    model, source, target = tutorial(EncoderDecoder), ids(3, 9), ids(3, 5)
    encoder = torch_twin(model.encoder, spec).double()
    decoder = torch_twin(model.decoder, spec, cross=True).double()
    hidden = ~REAL if padded else None
    ours = model(
        {
            "input_ids": source,
            "decoder_input_ids": target,
            **({"attention_mask": REAL.long()} if padded else {}),
        }
    )
    memory = encoder(embedded(model, source), src_key_padding_mask=hidden)
    theirs = decoder(embedded(model, target), memory, tgt_mask=FUTURE[:5, :5], memory_key_padding_mask=hidden)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(5, D_MODEL).double()
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    compare_gradients(model.encoder, encoder)
    compare_gradients(model.decoder, decoder)


# --- what a hidden state may depend on


@pytest.mark.parametrize("activation", ["relu2", "swiglu"])
def test_the_future_changes_nothing_before_it(build, ids, position, activation):
    layer = LayerSpec(D_MODEL, n_heads=N_HEADS, activation=activation)
    model, x = build(Decoder, position=position, layer=layer), ids(2, 12)
    before = model({"input_ids": x})
    x[:, 7:] = (x[:, 7:] + 1) % 50
    after = model({"input_ids": x})
    torch.testing.assert_close(after[:, :7], before[:, :7])
    assert (after[:, 7:] - before[:, 7:]).abs().amax() > 1e-2


def test_an_encoder_sees_both_sides(build, ids):
    model, x = build(Encoder), ids(2, 12)
    before = model({"input_ids": x})
    x[:, 7] = (x[:, 7] + 1) % 50
    assert ((model({"input_ids": x}) - before).abs().amax(-1) > 1e-4).all()


def test_the_decoder_of_an_encoder_decoder_sees_its_past_and_all_of_the_source(build, ids):
    model, source, target = build(EncoderDecoder), ids(2, 8), ids(2, 6)
    before = model({"input_ids": source, "decoder_input_ids": target})
    target[:, 4:] = (target[:, 4:] + 1) % 50
    after = model({"input_ids": source, "decoder_input_ids": target})
    torch.testing.assert_close(after[:, :4], before[:, :4])
    source[:, 7] = (source[:, 7] + 1) % 50
    assert ((model({"input_ids": source, "decoder_input_ids": target}) - after).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", [Encoder, Decoder])
@pytest.mark.parametrize("given_positions", [True, False])
def test_packed_documents_have_the_hidden_states_of_separate_ones(
    build, ids, position, kind, given_positions
):
    model, lengths = build(kind, position=position), (5, 3, 6)
    documents = [ids(1, n) for n in lengths]
    batch = {
        "input_ids": torch.cat([*documents, ids(1, 4)], dim=1),
        "segment_ids": torch.tensor([[1] * 5 + [2] * 3 + [3] * 6 + [0] * 4]),
    }
    if given_positions:
        batch["position_ids"] = torch.cat([torch.arange(n) for n in (*lengths, 4)])[None]
    separate = torch.cat([model({"input_ids": document}) for document in documents], dim=1)
    torch.testing.assert_close(model(batch)[:, :14], separate, atol=1e-5, rtol=1e-5)


def test_packed_pairs_have_the_hidden_states_of_separate_pairs(build, ids, position):
    model = build(EncoderDecoder, position=position)
    sources, targets = [ids(1, n) for n in (5, 3, 6)], [ids(1, n) for n in (2, 4, 3)]
    batch = {
        "input_ids": torch.cat([*sources, ids(1, 2)], dim=1),
        "segment_ids": torch.tensor([[1] * 5 + [2] * 3 + [3] * 6 + [0] * 2]),
        "decoder_input_ids": torch.cat([*targets, ids(1, 3)], dim=1),
        "decoder_segment_ids": torch.tensor([[1] * 2 + [2] * 4 + [3] * 3 + [0] * 3]),
    }
    separate = [
        model({"input_ids": source, "decoder_input_ids": target})
        for source, target in zip(sources, targets, strict=True)
    ]
    torch.testing.assert_close(model(batch)[:, :9], torch.cat(separate, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Encoder, Decoder])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_on_either_side(build, ids, position, kind, side):
    model, x, padding = build(kind, position=position), ids(2, 7), ids(2, 4)
    real = torch.ones(2, 7, dtype=torch.int64)
    parts = [(x, real), (padding, real[:, :4] * 0)]
    if side == "left":
        parts.reverse()
    batch = {
        "input_ids": torch.cat([part for part, _ in parts], dim=1),
        "attention_mask": torch.cat([mask for _, mask in parts], dim=1),
    }
    kept = model(batch)[:, -7:] if side == "left" else model(batch)[:, :7]
    torch.testing.assert_close(kept, model({"input_ids": x}), atol=1e-5, rtol=1e-5)


def test_padding_of_a_source_changes_nothing_in_the_target(build, ids, position):
    model, source, target = build(EncoderDecoder, position=position), ids(2, 7), ids(2, 5)
    mask = torch.tensor([[1] * 7 + [0] * 3]).expand(2, 10)
    padded = {"input_ids": torch.cat((source, ids(2, 3)), dim=1), "attention_mask": mask}
    plain = model({"input_ids": source, "decoder_input_ids": target})
    torch.testing.assert_close(model({**padded, "decoder_input_ids": target}), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Encoder, Decoder, EncoderDecoder])
@pytest.mark.parametrize("autocast", [False, True])
def test_rows_of_padding_alone_give_no_nan_in_values_or_gradients(build, ids, position, kind, autocast):
    model, nothing = build(kind, position=position), torch.zeros(2, 6, dtype=torch.int64)
    segment_ids = torch.tensor([[1, 1, 2, 2, 0, 0], [0] * 6])
    batch = {"input_ids": ids(2, 6), "segment_ids": segment_ids}
    batch |= {"decoder_input_ids": ids(2, 6), "decoder_segment_ids": segment_ids.flip(1) + nothing}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model(batch)
    hidden.float().square().sum().backward()
    assert hidden.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


# --- the cache


def in_chunks(model: nn.Module, batch: dict, sizes: tuple[int, ...], prefix: str = "") -> torch.Tensor:
    """The hidden states of the batch, given to a cache piece by piece."""
    rows, total = batch[prefix + "input_ids"].shape
    assert sum(sizes) == total
    cache, outputs, start = model.new_cache(rows, total), [], 0
    for size in sizes:
        piece = {
            key: value[:, start : start + size] if key.startswith(prefix) else value
            for key, value in batch.items()
            if key.startswith(prefix) or start == 0
        }
        outputs.append(model(piece, cache))
        start += size
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("sizes", [(10,), (6, 1, 1, 1, 1), (4, 3, 3), (1,) * 10])
@pytest.mark.parametrize("n_kv_heads", [None, 2])
def test_a_cache_changes_nothing(build, ids, position, sizes, n_kv_heads):
    layer = LayerSpec(D_MODEL, n_heads=N_HEADS, n_kv_heads=n_kv_heads)
    model, x = build(Decoder, position=position, layer=layer), ids(3, 10)
    whole = model({"input_ids": x})
    torch.testing.assert_close(in_chunks(model, {"input_ids": x}, sizes), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(6, 1, 1, 1, 1), (4, 3, 3), (2, 8)])
def test_a_cache_changes_nothing_for_prompts_padded_on_the_left(build, ids, position, sizes):
    model, x = build(Decoder, position=position), ids(3, 10)
    real = (torch.arange(10) >= torch.tensor([[0], [3], [5]])).long()
    cached = in_chunks(model, {"input_ids": x, "attention_mask": real}, sizes)
    for row, n_padding in enumerate((0, 3, 5)):
        alone = model({"input_ids": x[row : row + 1, n_padding:]})
        torch.testing.assert_close(cached[row : row + 1, n_padding:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(7,), (3, 1, 1, 2), (1,) * 7])
@pytest.mark.parametrize("packed", [False, True])
def test_a_cache_changes_nothing_in_an_encoder_decoder_that_reads_its_source_once(
    build, ids, position, sizes, packed
):
    model = build(EncoderDecoder, position=position)
    batch = {"input_ids": ids(2, 8), "decoder_input_ids": ids(2, 7)}
    if packed:
        batch["segment_ids"] = torch.tensor([[1] * 3 + [2] * 4 + [0]] * 2)
        batch["decoder_segment_ids"] = torch.tensor([[1] * 4 + [2] * 3] * 2)
        batch["decoder_position_ids"] = torch.tensor([[0, 1, 2, 3, 0, 1, 2]] * 2)
    else:
        batch["attention_mask"] = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    cached = in_chunks(model, batch, sizes, "decoder_")
    torch.testing.assert_close(cached, model(batch), atol=1e-5, rtol=1e-5)


def test_rows_of_a_cache_can_be_reordered_and_doubled(build, ids):
    rows = torch.tensor([2, 0, 0, 1])
    model, source, x, more = build(EncoderDecoder), ids(3, 8), ids(3, 5), ids(4, 2)
    source_mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 7 + [0]])
    cache = model.new_cache(3, 7)
    model({"input_ids": source, "attention_mask": source_mask, "decoder_input_ids": x}, cache)
    cache.reorder(rows)
    continued = model({"decoder_input_ids": more}, cache)
    whole = torch.cat((x[rows], more), dim=1)
    batch = {"input_ids": source[rows], "attention_mask": source_mask[rows], "decoder_input_ids": whole}
    torch.testing.assert_close(continued, model(batch)[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 0], [0, 1, 1]])
@pytest.mark.parametrize("kind", [Decoder, EncoderDecoder])
def test_rows_that_begin_alike_can_exchange_what_follows(build, ids, kind, rows):
    rows = torch.tensor(rows)
    model, source, begin, x, more = build(kind), ids(1, 8), ids(1, 4), ids(3, 3), ids(3, 2)
    prefix = "decoder_" if kind is EncoderDecoder else ""
    given = {"input_ids": source.expand(3, -1)} if prefix else {}
    cache = model.new_cache(3, 9)
    model({**given, prefix + "input_ids": torch.cat((begin.expand(3, -1), x), dim=1)}, cache)
    cache.exchange(rows, since=4)
    continued = model({prefix + "input_ids": more}, cache)
    whole = torch.cat((begin.expand(3, -1), x[rows], more), dim=1)
    torch.testing.assert_close(
        continued, model({**given, prefix + "input_ids": whole})[:, 7:], atol=1e-5, rtol=1e-5
    )


def test_a_decoder_can_have_an_embedding_of_its_own(build, ids):
    batch = {"input_ids": ids(2, 7), "decoder_input_ids": ids(2, 5)}
    tied, apart = build(EncoderDecoder), build(EncoderDecoder, tied_embeddings=False)
    assert set(apart.state_dict()) - set(tied.state_dict()) == {"target_embedding.weight"}
    assert tied.output_embedding is tied.embedding
    assert apart.output_embedding is apart.target_embedding
    weights = tied.state_dict()
    apart.load_state_dict({**weights, "target_embedding.weight": weights["embedding.weight"]})
    torch.testing.assert_close(apart(batch), tied(batch))
    memory = apart.encode(batch)
    apart.target_embedding.weight.data.add_(1)
    torch.testing.assert_close(apart.encode(batch), memory)
    assert not torch.allclose(apart(batch), tied(batch))


def test_a_decoder_can_have_a_vocabulary_of_its_own(build, ids):
    model = build(EncoderDecoder, target_vocab_size=5)
    assert model.output_embedding.weight.shape == (5, model.d_model)
    assert model.embedding.weight.shape[0] > 5
    hidden = model({"input_ids": ids(2, 7), "decoder_input_ids": ids(2, 4) % 5})
    assert hidden.shape == (2, 4, model.d_model)


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_the_type_of_a_token_is_added_to_its_embedding(build, ids, kind):
    model = build(kind, n_token_types=2)
    plain = build(kind)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "type_embedding.weight"})
    batch = {"input_ids": ids(2, 5)}
    types = torch.tensor([[0, 1, 2, 0, 1]]).expand(2, 5)
    table = torch.cat([torch.zeros(1, model.d_model), model.type_embedding.weight])
    model.dropout = AddsTypes(table[types])
    with_types = model(batch)
    model.dropout = torch.nn.Identity()
    torch.testing.assert_close(model({**batch, "token_type_ids": types}), with_types)
    torch.testing.assert_close(model({**batch, "token_type_ids": 0 * types}), plain(batch))
    torch.testing.assert_close(model(batch), plain(batch))
    assert not torch.allclose(with_types, plain(batch))


class AddsTypes(torch.nn.Module):
    """Adds what it was given to what it is given."""

    def __init__(self, added):
        super().__init__()
        self.added = added

    def forward(self, x):
        return x + self.added


# --- sizes, types, devices


@pytest.mark.parametrize("kind", [Encoder, Decoder, EncoderDecoder])
def test_a_transformer_tells_its_sizes_and_can_be_counted_on_the_meta_device(kind):
    with torch.device("meta"):
        position, layer = SinusoidalPlusLearned(32, max_seq_len=64), LayerSpec(32, n_heads=4)
        model = kind(1000, n_layers=3, max_seq_len=64, layer=layer, position=position)
        batch = {key: torch.zeros(2, 5, dtype=torch.int64) for key in ("input_ids", "decoder_input_ids")}
        assert model(batch).shape == (2, 5, 32)
    assert (model.d_model, model.max_seq_len, model.embedding.num_embeddings) == (32, 64, 1000)
    per_layer = 12 * 32**2 + 2 * 32 + 2 * 8
    if kind is not EncoderDecoder:
        assert sum(weight.numel() for weight in model.parameters()) == (1000 + 64) * 32 + 3 * per_layer + 32


def test_encoder_and_decoder_may_differ_in_depth(build):
    model = build(EncoderDecoder, n_encoder_layers=1, n_layers=3)
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (1, 3)


@pytest.mark.parametrize("kind", [Encoder, Decoder, EncoderDecoder])
def test_bfloat16_autocast_is_close_to_float32(build, ids, kind):
    model = build(kind)
    batch = {"input_ids": ids(2, 12), "decoder_input_ids": ids(2, 9)}
    with torch.autocast("cpu", torch.bfloat16):
        low = model(batch)
    error = (low.float() - model(batch)).square().mean() / model(batch).square().mean()
    assert 0 < error < 1e-2


def test_the_same_weights_and_batch_give_the_same_bits(build, ids):
    model, batch = build(Decoder), {"input_ids": ids(2, 12)}
    assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_layers": 0}, "n_layers is 0; expected at least 1"),
        ({"max_seq_len": 0}, "max_seq_len is 0; expected at least 1"),
        (
            {"max_seq_len": 65, "position": Learned(32, max_seq_len=64)},
            "65 tokens exceed the positions of Learned",
        ),
        ({"position": ALiBi(8)}, "ALiBi has 8 slopes, but the layers have 4 heads"),
        (
            {"layer": LayerSpec(36, n_heads=4)},
            "d_model 36 and n_heads 4 the head size is 9; expected an even",
        ),
    ],
)
def test_an_impossible_transformer_is_refused_with_the_numbers(build, changes, text):
    with pytest.raises(ValueError, match=text):
        build(Decoder, **changes)


def test_a_cache_longer_than_the_learned_positions_is_refused(build):
    model = build(Decoder, position=Learned(D_MODEL, max_seq_len=64))
    with pytest.raises(ValueError, match="65 tokens exceed the positions of Learned; expected at most 64"):
        model.new_cache(1, 65)
    model.new_cache(1, 65, max_real_tokens=64)


COMPILED = """
import torch
from modules.init import initialize
from modules.layers import LayerSpec
from modules.positions import ALiBi, Rotary
from modules.transformer import Decoder, Encoder, EncoderDecoder

torch.manual_seed(0)
segments = torch.tensor([[1] * 6 + [2] * 6] * 2)
batch = {"input_ids": torch.randint(50, (2, 12)), "decoder_input_ids": torch.randint(50, (2, 12))}
for kind, position, packed, backend in (
    (Decoder, Rotary(), False, "inductor"),
    (Decoder, ALiBi(4), True, "aot_eager"),
    (Encoder, Rotary(), True, "aot_eager"),
    (EncoderDecoder, Rotary(), True, "aot_eager"),
):
    model = kind(50, n_layers=1, max_seq_len=64, layer=LayerSpec(32, n_heads=4), position=position)
    initialize(model, "gpt2")
    inputs = batch | ({"segment_ids": segments, "decoder_segment_ids": segments} if packed else {})
    grads = []
    for forward in (model, torch.compile(model, fullgraph=True, backend=backend)):
        hidden = forward(inputs)
        grads.append([hidden, *torch.autograd.grad(hidden.square().sum(), list(model.parameters()))])
    for eager, compiled in zip(*grads, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-3, rtol=1e-3)
"""


@pytest.mark.slow
def test_a_compiled_transformer_is_one_graph_with_the_same_values_and_gradients():
    """In a process of its own: the checks of shapes cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_positions_at_all_cannot_tell_the_order_of_an_encoders_tokens(build, ids):
    model, x = build(Encoder, position=Position()), ids(1, 8)
    torch.testing.assert_close(model({"input_ids": x.flip(1)}).flip(1), model({"input_ids": x}))
    turned = build(Encoder, position=Rotary())
    assert (turned({"input_ids": x.flip(1)}).flip(1) - turned({"input_ids": x})).abs().max() > 1e-2

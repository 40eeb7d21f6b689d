"""Beam search with a cache, batched and padded, finds what a slow search over one prompt at a time finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modules.beam import BeamOptions, Hypothesis, beam_search, best_tokens
from modules.generation import SamplingOptions, generate
from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import ALiBi, Learned, Position, Rotary
from modules.transformer import Decoder, Encoder, EncoderDecoder

D, V, LIMIT = 16, 13, 24
PAD, BOS, EOS = 0, 1, 2
NEVER = V + 100  # an end that no model can choose
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 3, 4], [3, 3]]

POSITIONS = {"rotary": Rotary, "alibi": lambda: ALiBi(4), "learned": lambda: Learned(D, max_seq_len=LIMIT)}
ARCHITECTURES = {"decoder": Decoder, "encoder_decoder": EncoderDecoder}
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def make_model(
    architecture: str = "decoder", position: str = "rotary", *, seed: int = 0, eos_bias: float = 1.0
) -> Model:
    torch.manual_seed(seed)
    layer = LayerSpec(d_model=D, n_heads=4, n_kv_heads=2, d_ff=24, dropout=0.2)
    scheme: Position = POSITIONS[position]()
    backbone = ARCHITECTURES[architecture](V, n_layers=2, max_seq_len=LIMIT, layer=layer, position=scheme)
    for name, weight in backbone.named_parameters():
        if name.endswith("proj.weight"):
            weight.data.mul_(4)  # so that a token depends on all before it
    head = LMHead(torch.nn.Embedding(V, D), softcap=3.0, bias=True)
    head.bias.data[EOS] = eos_bias  # so that answers end early and late
    return Model(backbone, head)


@torch.no_grad()
def slow_log_p(model: Model, prompt: list[int], answer: list[int]) -> list[float]:
    if isinstance(model.backbone, EncoderDecoder):
        batch = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[BOS, *answer]])}
    else:
        batch = {"input_ids": torch.tensor([[*prompt, *answer]])}
    logits: Tensor = model(batch)[0, -1]
    return logits.log_softmax(-1).tolist()


def slow_search(
    model: Model, prompt: list[int], options: BeamOptions, eos_id: int, limit: int
) -> list[Hypothesis]:
    """One prompt, Python lists, no cache, and no early stop: on to the longest answer, whatever was found."""

    def hypothesis(ids: list[int], total: float, n_tokens: int, ended: bool) -> Hypothesis:
        return Hypothesis(ids=ids, score=total / n_tokens**options.length_penalty, ended=ended)

    model.eval()
    ended: list[Hypothesis] = []
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    for step in range(limit):
        candidates = [
            ([*ids, token], total + log_p)
            for ids, total in beams
            for token, log_p in enumerate(slow_log_p(model, prompt, ids))
        ]
        candidates.sort(key=lambda candidate: -candidate[1])
        best = candidates[: options.beams]
        ended += [hypothesis(ids[:-1], total, step + 1, True) for ids, total in best if ids[-1] == eos_id]
        beams = [(ids, total) for ids, total in best if ids[-1] != eos_id]
    ended.sort(key=lambda found: -found.score)
    cut = [hypothesis(ids, total, limit, False) for ids, total in beams]
    cut.sort(key=lambda found: -found.score)
    return [*ended, *cut][: options.n_best]


def search(
    model: Model, options: BeamOptions, eos_id: int = EOS, **more: list[int]
) -> list[list[Hypothesis]]:
    return beam_search(model, PROMPTS, options, eos_id=eos_id, pad_id=PAD, bos_id=BOS, **more)


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert [[(h.ids, h.ended) for h in row] for row in found] == [
        [(h.ids, h.ended) for h in row] for row in expected
    ]
    scores, expected_scores = ([h.score for row in rows for h in row] for rows in (found, expected))
    assert scores == pytest.approx(expected_scores, abs=1e-4)


@pytest.mark.slow
@by_architecture
@given(
    seed=st.integers(0, 2**31),
    position=st.sampled_from(sorted(POSITIONS)),
    beams=st.integers(1, 5),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    eos_bias=st.sampled_from([-2.0, 0.0, 1.0, 3.0]),
    limits=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    data=st.data(),
)
@settings(max_examples=12)
def test_a_padded_batch_with_a_cache_finds_what_a_slow_search_finds(
    architecture, seed, position, beams, length_penalty, eos_bias, limits, data
) -> None:
    model = make_model(architecture, position, seed=seed, eos_bias=eos_bias)
    n_best = data.draw(st.integers(1, beams))
    options = BeamOptions(beams=beams, length_penalty=length_penalty, max_new_tokens=6, n_best=n_best)
    expected = [
        slow_search(model, prompt, options, EOS, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)
    ]
    assert_same(search(model, options, max_new=limits), expected)


@by_architecture
@pytest.mark.parametrize("eos_bias", [-2.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy_generation(architecture: str, eos_bias: float, seed: int) -> None:
    model = make_model(architecture, seed=seed, eos_bias=eos_bias)
    greedy = SamplingOptions(temperature=0.0, max_new_tokens=9)
    answers = generate(model, PROMPTS, greedy, eos_id=EOS, pad_id=PAD, bos_id=BOS)
    found = search(model, BeamOptions(beams=1, max_new_tokens=9))
    assert [row[0].ids for row in found] == answers
    assert [row[0].ended for row in found] == [len(answer) < 9 for answer in answers]


def test_a_wide_search_without_an_end_finds_the_likeliest_of_all_answers() -> None:
    model = make_model()
    found = beam_search(model, PROMPTS[:1], BeamOptions(beams=V, max_new_tokens=2), eos_id=NEVER, pad_id=PAD)[
        0
    ][0]
    first = slow_log_p(model.eval(), PROMPTS[0], [])
    sums = {
        (a, b): first[a] + log_p
        for a in range(V)
        for b, log_p in enumerate(slow_log_p(model, PROMPTS[0], [a]))
    }
    best = max(sums, key=lambda ids: sums[ids])
    assert (tuple(found.ids), found.ended) == (best, False)
    assert found.score == pytest.approx(sums[best] / 2, abs=1e-5)


def rows_read(model: Model) -> list[int]:
    """Filled by each forward pass with the number of rows that it reads."""
    rows: list[int] = []
    model.backbone.embedding.register_forward_hook(lambda _m, inputs, _x: rows.append(len(inputs[0])))
    return rows


def test_the_search_ends_when_nothing_better_can_come() -> None:
    model = make_model(eos_bias=3.0)
    steps = []
    for n_best in (1, 2, 3):
        rows = rows_read(model)
        search(model, BeamOptions(beams=3, max_new_tokens=18, length_penalty=0.5, n_best=n_best))
        steps.append(len(rows))
    assert steps == sorted(steps)
    assert steps[0] < steps[2] < 18


def test_a_row_that_is_done_is_not_computed_any_further() -> None:
    model = make_model()
    options = BeamOptions(beams=3, max_new_tokens=9)
    rows = rows_read(model)
    search(model, options, eos_id=NEVER, max_new=[2, 9, 4, 1])
    assert rows == [4, 9, 6, 6, 3, 3, 3, 3, 3]


def test_the_source_is_encoded_once_for_each_prompt() -> None:
    model = make_model("encoder_decoder")
    sizes: list[int] = []
    model.backbone.encoder.register_forward_hook(lambda _m, inputs, _x: sizes.append(len(inputs[0])))
    keys: list[int] = []
    model.backbone.decoder.layers[0].cross_attn.k_proj.register_forward_hook(
        lambda _m, inputs, _x: keys.append(len(inputs[0]))
    )
    search(model, BeamOptions(beams=3, max_new_tokens=5), eos_id=NEVER)
    assert sizes == keys == [4]


@by_architecture
def test_a_row_does_not_depend_on_the_other_rows(architecture: str) -> None:
    model = make_model(architecture)
    options = BeamOptions(beams=3, max_new_tokens=7, n_best=3)
    alone = [
        beam_search(model, [prompt], options, eos_id=EOS, pad_id=PAD, bos_id=BOS)[0] for prompt in PROMPTS
    ]
    assert_same(search(model, options), alone)


@by_architecture
def test_of_equal_answers_the_one_with_the_smaller_tokens_comes_first(architecture: str) -> None:
    model = make_model(architecture)
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    found = search(model, BeamOptions(beams=4, n_best=4, max_new_tokens=2), eos_id=NEVER)
    assert [[h.ids for h in row] for row in found] == [[[0, 0], [0, 1], [0, 2], [0, 3]]] * len(PROMPTS)


@given(seed=st.integers(0, 2**31), k=st.integers(1, 9), n_values=st.integers(1, 9))
def test_the_best_tokens_are_those_of_a_stable_sort(seed: int, k: int, n_values: int) -> None:
    log_p = torch.randint(n_values, (5, 9), generator=torch.Generator().manual_seed(seed)).float()
    values, tokens = best_tokens(log_p, k)
    ordered = log_p.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, ordered.values[:, :k])
    assert torch.equal(tokens, ordered.indices[:, :k])


@by_architecture
def test_a_forbidden_token_is_never_chosen_but_the_end_always_can_be(architecture: str) -> None:
    model = make_model(architecture)
    options = BeamOptions(beams=4, n_best=4, max_new_tokens=5)
    forbidden = [token for token in range(V) if token not in (7, 11)]
    found = search(model, options, forbidden_ids=forbidden)
    assert {token for row in found for hypothesis in row for token in hypothesis.ids} <= {7, 11}
    everything = search(model, options, forbidden_ids=list(range(V)))
    assert [[h.ids for h in row] for row in everything] == [[[]]] * len(PROMPTS)


def test_dropout_is_off_while_searching_and_the_mode_is_the_old_one_afterwards() -> None:
    model = make_model()
    options = BeamOptions(beams=2, max_new_tokens=5)
    expected = search(model.eval(), options)
    model.train()
    assert search(model, options) == expected
    assert model.backbone.training


def test_no_prompts_have_no_answers() -> None:
    assert beam_search(make_model(), [], BeamOptions(), eos_id=EOS, pad_id=PAD) == []


def test_a_long_prompt_and_a_long_answer_of_another_row_fit_learned_positions() -> None:
    model = make_model(position="learned")
    prompts, limits = [[5] * 20, [6] * 4], [5, 21]
    options = BeamOptions(beams=2, max_new_tokens=LIMIT, n_best=2)
    found = beam_search(model, prompts, options, eos_id=NEVER, pad_id=PAD, max_new=limits)
    expected = [slow_search(model, p, options, NEVER, n) for p, n in zip(prompts, limits, strict=True)]
    assert_same(found, expected)


@by_architecture
def test_what_learned_positions_do_not_reach_is_refused_with_the_row(architecture: str) -> None:
    model = make_model(architecture, "learned")
    options = BeamOptions(max_new_tokens=LIMIT)
    with pytest.raises(ValueError, match=rf"(?s)prompt 1 of 25 tokens .* expected at most {LIMIT} .*shorten"):
        beam_search(model, [[5], [5] * 25], options, eos_id=EOS, pad_id=PAD, bos_id=BOS, max_new=[2, 2])


def test_logits_that_are_not_numbers_are_refused() -> None:
    model = make_model()
    model.head.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match="logits are NaN"):
        search(model, BeamOptions(beams=2))


def test_an_encoder_is_told_that_it_cannot_generate() -> None:
    encoder = Encoder(
        V, n_layers=1, max_seq_len=LIMIT, layer=LayerSpec(d_model=D, n_heads=4), position=Rotary()
    )
    with pytest.raises(
        ValueError, match="Encoder cannot generate text; expected a Decoder or an EncoderDecoder"
    ):
        search(Model(encoder, LMHead(encoder.embedding)), BeamOptions())


@pytest.mark.parametrize("max_new", [[1, 2], [1, 2, 3, 0]])
def test_limits_that_do_not_fit_the_prompts_are_refused(max_new: list[int]) -> None:
    with pytest.raises(ValueError, match="for 4 prompts; expected 1 or more for each"):
        search(make_model(), BeamOptions(), max_new=max_new)


def test_more_beams_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="beams is 14, but there are only 13 tokens"):
        search(make_model(), BeamOptions(beams=14))


@pytest.mark.parametrize(
    ("option", "value"), [("beams", 0), ("length_penalty", -0.5), ("max_new_tokens", 0), ("n_best", 5)]
)
def test_an_impossible_option_is_refused_with_its_value(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; expected .+\nhint: "):
        BeamOptions(**{option: value})

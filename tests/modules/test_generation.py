"""Generation with a cache, batched and padded, gives what a slow loop over one prompt gives."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as reference

from modules.cache import KVCache
from modules.generation import (
    SamplingOptions,
    at_temperature,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    sample,
    stream,
)
from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import ALiBi, Learned, Position, Rotary, Sinusoidal, SinusoidalPlusLearned
from modules.transformer import Decoder, Encoder, EncoderDecoder

D, V, LIMIT = 16, 23, 24
PAD, BOS, EOS = 0, 1, 2
NEVER = V + 100  # an end that no model can choose
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [3, 3]]

POSITIONS = {
    "none": Position,
    "sinusoidal": lambda: Sinusoidal(D),
    "learned": lambda: Learned(D, max_seq_len=LIMIT),
    "both": lambda: SinusoidalPlusLearned(D, max_seq_len=LIMIT),
    "rotary": Rotary,
    "alibi": lambda: ALiBi(4),
}
ARCHITECTURES = {"decoder": Decoder, "encoder_decoder": EncoderDecoder}
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

GREEDY = SamplingOptions(temperature=0.0, max_new_tokens=9)
PLAIN = SamplingOptions(max_new_tokens=9, seed=3)
FILTERED = SamplingOptions(
    temperature=0.7, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.3, max_new_tokens=9, seed=4
)


def make_model(architecture: str = "decoder", position: str = "rotary") -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(d_model=D, n_heads=4, n_kv_heads=2, d_ff=24, dropout=0.2)
    backbone = ARCHITECTURES[architecture](
        V, n_layers=2, max_seq_len=LIMIT, layer=layer, position=POSITIONS[position]()
    )
    for name, weight in backbone.named_parameters():
        if name.endswith("proj.weight"):
            weight.data.mul_(4)  # so that a token depends on all before it
    # Not tied: random weights would say each token again.
    return Model(backbone, LMHead(torch.nn.Embedding(V, D), softcap=8.0))


def slow_choice(logits: Tensor, row: list[int], options: SamplingOptions, numbers: random.Random) -> int:
    """One token, by the processors of another library and a loop over the vocabulary."""
    ids, scores = torch.tensor([row]), logits[None]
    scores = reference.RepetitionPenaltyLogitsProcessor(options.repetition_penalty)(ids, scores)
    if options.temperature == 0:
        return int(scores.argmax())
    scores = reference.TemperatureLogitsWarper(options.temperature)(ids, scores)
    if options.top_k:
        scores = reference.TopKLogitsWarper(options.top_k)(ids, scores)
    scores = reference.TopPLogitsWarper(options.top_p)(ids, scores)
    scores = reference.MinPLogitsWarper(options.min_p)(ids, scores)
    left = numbers.getrandbits(24) / 2**24
    for token, probability in enumerate(scores[0].softmax(-1).tolist()):
        left -= probability
        if left < 0:
            return token
    raise AssertionError("probabilities do not add up to 1")


@torch.no_grad()
def slow_generate(
    model: Model, prompts: list[list[int]], options: SamplingOptions, eos_id: int
) -> list[list[int]]:
    """One prompt at a time, no padding, no cache: everything is read again for each token."""
    model.eval()
    answers = []
    for number, prompt in enumerate(prompts):
        numbers = random.Random(f"{options.seed}/{number}")
        answer: list[int] = []
        while len(answer) < options.max_new_tokens:
            if isinstance(model.backbone, EncoderDecoder):
                row = [BOS, *answer]
                batch = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([row])}
            else:
                row = [*prompt, *answer]
                batch = {"input_ids": torch.tensor([row])}
            token = slow_choice(model(batch)[0, -1], row, options, numbers)
            if token == eos_id:
                break
            answer.append(token)
        answers.append(answer)
    return answers


def fast_generate(
    model: Model, prompts: list[list[int]], options: SamplingOptions, eos_id: int, **more: list[int]
) -> list[list[int]]:
    return generate(model, prompts, options, eos_id=eos_id, pad_id=PAD, bos_id=BOS, **more)


@pytest.mark.slow
@by_architecture
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("options", [GREEDY, FILTERED], ids=["greedy", "filtered"])
def test_a_padded_batch_with_a_cache_gives_what_a_slow_loop_gives(
    architecture: str, position: str, options: SamplingOptions
) -> None:
    model = make_model(architecture, position)
    answers = fast_generate(model, PROMPTS, options, NEVER)
    assert answers == slow_generate(model, PROMPTS, options, NEVER)
    assert len({tuple(answer) for answer in answers}) > 1


@by_architecture
@pytest.mark.parametrize("position", ["rotary", "alibi"])
def test_a_batch_without_padding_gives_what_a_slow_loop_gives(architecture: str, position: str) -> None:
    model, prompts = make_model(architecture, position), [PROMPTS[0], PROMPTS[0][::-1]]
    assert fast_generate(model, prompts, GREEDY, NEVER) == slow_generate(model, prompts, GREEDY, NEVER)


@torch.no_grad()
def test_a_cache_knows_whether_padding_was_read_and_whether_rows_of_other_lengths_joined() -> None:
    backbone, caches = make_model().backbone, []
    for n_tokens in (3, 3, 2):
        caches.append(backbone.new_cache(1, 4))
        backbone.forward({"input_ids": torch.ones(1, n_tokens, dtype=torch.long)}, caches[-1])
    (one, same, shorter), row = caches, torch.tensor([0])
    assert KVCache.of_rows([(one, row), (same, row)], room=1).one_segment
    assert not KVCache.of_rows([(one, row), (shorter, row)], room=1).one_segment
    backbone.forward({"input_ids": torch.tensor([[4]]), "attention_mask": torch.tensor([[1]])}, shorter)
    assert (one.one_segment, shorter.one_segment) == (True, False)
    assert not KVCache.of_rows([(one, row), (shorter, row)], room=1).one_segment


@by_architecture
@pytest.mark.parametrize("options", [PLAIN, FILTERED], ids=["plain", "filtered"])
def test_each_row_ends_by_itself_at_its_end_token(architecture: str, options: SamplingOptions) -> None:
    model = make_model(architecture)
    endless = fast_generate(model, PROMPTS, options, NEVER)
    eos_id = endless[0][2]
    answers = fast_generate(model, PROMPTS, options, eos_id)
    assert answers == [row[: row.index(eos_id)] if eos_id in row else row for row in endless]
    assert len({len(answer) for answer in answers}) > 1
    assert answers == slow_generate(model, PROMPTS, options, eos_id)


def test_nothing_is_computed_after_the_last_row_has_ended() -> None:
    model = make_model()
    longest = fast_generate(model, PROMPTS[:1], GREEDY, NEVER)[0]
    eos_id = longest[2]
    n_steps = longest.index(eos_id) + 1
    assert len(list(stream(model, PROMPTS[:1], GREEDY, eos_id=eos_id, pad_id=PAD))) == n_steps < len(longest)


def test_the_stream_gives_each_token_as_it_comes_and_none_for_ended_rows() -> None:
    model = make_model()
    eos_id = fast_generate(model, PROMPTS, PLAIN, NEVER)[0][2]
    steps = list(stream(model, PROMPTS, PLAIN, eos_id=eos_id, pad_id=PAD))
    columns = [[token for token in column if token is not None] for column in zip(*steps, strict=True)]
    assert columns == fast_generate(model, PROMPTS, PLAIN, eos_id)
    ended = [column.index(None) for column in zip(*steps, strict=True) if None in column]
    assert ended
    assert all(step[0] is None for step in steps[ended[0] :])


@by_architecture
def test_a_row_does_not_depend_on_the_other_rows(architecture: str) -> None:
    model = make_model(architecture)
    alone = fast_generate(model, PROMPTS[:1], PLAIN, NEVER)
    assert fast_generate(model, PROMPTS, PLAIN, NEVER)[:1] == alone


def test_the_same_prompt_twice_is_answered_in_two_ways_and_the_same_again() -> None:
    model = make_model()
    first = fast_generate(model, [[5, 6]] * 2, PLAIN, NEVER)
    assert first[0] != first[1]
    torch.rand(3)
    assert fast_generate(model, [[5, 6]] * 2, PLAIN, NEVER) == first


def test_torchs_own_random_numbers_are_left_alone() -> None:
    model = make_model()
    before = torch.get_rng_state()
    fast_generate(model, PROMPTS, PLAIN, NEVER)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [GREEDY, PLAIN], ids=["greedy", "plain"])
def test_a_forbidden_token_is_never_chosen(options: SamplingOptions) -> None:
    model = make_model()
    forbidden = [token for token in range(V) if token not in (EOS, 7, 11)]
    answers = fast_generate(model, PROMPTS * 5, options, EOS, forbidden_ids=[*forbidden, EOS])
    assert {token for answer in answers for token in answer} <= {7, 11}


def test_the_end_token_can_be_chosen_even_if_all_special_tokens_are_forbidden() -> None:
    model = make_model()
    everything = list(range(V))
    assert fast_generate(model, PROMPTS, PLAIN, EOS, forbidden_ids=everything) == [[]] * len(PROMPTS)


def test_dropout_is_off_while_generating_and_every_module_has_its_own_mode_again_afterwards() -> None:
    model = make_model()
    model.train()
    model.head.eval()
    answers = fast_generate(model, PROMPTS, GREEDY, NEVER)
    assert (model.backbone.training, model.head.training) == (True, False)
    assert answers == slow_generate(model, PROMPTS, GREEDY, NEVER)


def test_no_prompts_have_no_answers() -> None:
    assert fast_generate(make_model(), [], GREEDY, EOS) == []


@by_architecture
@pytest.mark.parametrize("position", ["learned", "both"])
def test_what_learned_positions_do_not_reach_is_refused_before_anything_is_computed(
    architecture: str, position: str
) -> None:
    model = make_model(architecture, position)
    calls: list[None] = []
    model.backbone.embedding.register_forward_hook(lambda *_: calls.append(None))
    with pytest.raises(
        ValueError, match=rf"(?s)prompt 1 of 25 tokens .* expected at most {LIMIT} positions .*shorten"
    ):
        fast_generate(model, [[5], [5] * (LIMIT + 1)], GREEDY, EOS)
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        fast_generate(model, [[5]], SamplingOptions(max_new_tokens=LIMIT + 1), EOS)
    assert not calls


@by_architecture
def test_learned_positions_can_be_used_up_to_the_last(architecture: str) -> None:
    model = make_model(architecture, "learned")
    n_prompt, n_answer = (4, LIMIT - 3) if architecture == "decoder" else (LIMIT, LIMIT)
    options = SamplingOptions(temperature=0.0, max_new_tokens=n_answer)
    assert len(fast_generate(model, [[5] * n_prompt], options, NEVER)[0]) == n_answer


@pytest.mark.parametrize("position", ["rotary", "alibi", "sinusoidal"])
def test_positions_without_an_end_go_on_beyond_max_seq_len(position: str) -> None:
    model = make_model(position=position)
    options = SamplingOptions(temperature=0.0, max_new_tokens=LIMIT)
    prompts = [[5] * (LIMIT + 1)]
    assert fast_generate(model, prompts, options, NEVER) == slow_generate(model, prompts, options, NEVER)


def test_an_empty_prompt_is_refused_with_its_number() -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty; expected at least one token"):
        fast_generate(make_model(), [[5], []], GREEDY, EOS)


def test_an_encoder_is_told_that_it_cannot_generate() -> None:
    layer = LayerSpec(d_model=D, n_heads=4)
    encoder = Encoder(V, n_layers=1, max_seq_len=LIMIT, layer=layer, position=Rotary())
    with pytest.raises(
        ValueError, match="Encoder cannot generate text; expected a Decoder or an EncoderDecoder"
    ):
        fast_generate(Model(encoder, LMHead(encoder.embedding)), PROMPTS, GREEDY, EOS)


def test_an_encoder_decoder_asks_for_the_token_that_it_starts_from() -> None:
    with pytest.raises(ValueError, match="bos_id is None; expected"):
        generate(make_model("encoder_decoder"), PROMPTS, GREEDY, eos_id=EOS, pad_id=PAD)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -1.0),
        ("top_k", 0),
        ("top_p", 0.0),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
    ],
)
def test_an_impossible_option_is_refused_with_its_value(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; expected .+\nhint: "):
        SamplingOptions(**{option: value})


seeds = st.integers(0, 2**31)


def logits_of(seed: int) -> Tensor:
    return 4 * torch.randn(5, 40, generator=torch.Generator().manual_seed(seed))


@given(seed=seeds, k=st.integers(1, 60))
def test_top_k_is_that_of_transformers(seed: int, k: int) -> None:
    logits = logits_of(seed)
    assert torch.equal(keep_top_k(logits, k), reference.TopKLogitsWarper(k)(None, logits))


@given(seed=seeds, p=st.sampled_from([0.01, 0.1, 0.37, 0.5, 0.9, 0.99]))
def test_top_p_is_that_of_transformers(seed: int, p: float) -> None:
    logits = logits_of(seed)
    assert torch.equal(keep_top_p(logits, p), reference.TopPLogitsWarper(p)(None, logits))


@given(seed=seeds, p=st.sampled_from([0.001, 0.02, 0.3, 1.0]))
def test_min_p_is_that_of_transformers(seed: int, p: float) -> None:
    logits = logits_of(seed)
    assert torch.equal(keep_min_p(logits, p), reference.MinPLogitsWarper(p)(None, logits))


@given(seed=seeds, penalty=st.sampled_from([0.7, 1.0, 1.2, 3.0]))
def test_repetition_penalty_is_that_of_transformers(seed: int, penalty: float) -> None:
    logits = logits_of(seed)
    ids = torch.randint(40, (5, 9), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    expected = reference.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, seen, penalty), expected)


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.2, 0.0, 0.3]).log()
    n = 20_000
    drawn = sample(logits.repeat(n, 1), (torch.arange(n) + 0.5) / n)
    shares = drawn.bincount(minlength=4) / n
    torch.testing.assert_close(shares, logits.exp(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-24])
def test_a_token_without_probability_is_not_sampled_even_at_the_ends(uniform: float) -> None:
    possible = torch.rand(500, 16, generator=torch.Generator().manual_seed(0)) < 0.3
    possible[:, 5] = True
    logits = torch.randn(500, 16).masked_fill(~possible, float("-inf"))
    drawn = sample(logits, torch.full((500,), uniform))
    assert possible.gather(1, drawn.unsqueeze(1)).all()


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    cold = SamplingOptions(temperature=temperature, max_new_tokens=6)
    greedy = SamplingOptions(temperature=0.0, max_new_tokens=6)
    assert fast_generate(make_model(), PROMPTS, cold, NEVER) == fast_generate(
        make_model(), PROMPTS, greedy, NEVER
    )


@pytest.mark.parametrize("temperature", [1e30, 1e40, float("inf")])
def test_any_heat_draws_evenly_and_still_never_what_is_forbidden(temperature: float) -> None:
    logits = torch.tensor([[5.0, -torch.inf, -3.0, 0.0]])
    probabilities = at_temperature(logits, temperature).softmax(dim=-1)
    torch.testing.assert_close(probabilities, torch.tensor([[1 / 3, 0.0, 1 / 3, 1 / 3]]))


@given(st.integers(0, 10_000), st.floats(0.05, 20.0))
def test_a_temperature_divides_the_logits(seed: int, temperature: float) -> None:
    logits = logits_of(seed)
    expected = (logits.double() / temperature).softmax(dim=-1).float()
    torch.testing.assert_close(at_temperature(logits, temperature).softmax(dim=-1), expected)


def test_the_smallest_penalty_of_repetition_leaves_numbers() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    assert not penalize_repetition(logits, torch.ones(1, 3, dtype=torch.bool), 1e-44).isnan().any()


@pytest.mark.parametrize("n_source", [V - 5, V + 40])
def test_what_may_be_written_is_counted_in_the_vocabulary_of_the_answers(n_source: int) -> None:
    torch.manual_seed(0)
    backbone = EncoderDecoder(
        n_source,
        target_vocab_size=V,
        n_layers=1,
        max_seq_len=LIMIT,
        layer=LayerSpec(D, n_heads=4),
        position=Rotary(),
    )
    model = Model(backbone, LMHead(backbone.output_embedding))
    forbidden = [token for token in range(V) if token != V - 1]
    for temperature in (0.0, 1.0):
        options = SamplingOptions(temperature=temperature, max_new_tokens=3)
        answers = fast_generate(model, [[5, 6], [7]], options, NEVER, forbidden_ids=forbidden)
        assert answers == [[V - 1] * 3] * 2

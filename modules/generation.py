"""Text from a model, token by token: greedy or sampled, batched, with a cache of keys and values.

A row's tokens depend on the model, its prompt, the options and its place in the batch, not on the other rows:
each row has its own random numbers, and padding stands to the left, where attention does not look.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modules.decoding import check_room, evaluating, first_batch, forbidden_mask, writer_of
from modules.errors import ArgumentError
from modules.model import Model


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen; the filters act in the order in which they stand here.

    Args:
        repetition_penalty: logits of tokens that the row already has are divided by it (multiplied where
            negative).
        temperature: logits are divided by it; 0 takes the likeliest token, and what follows has no effect.
        top_k: keep the k likeliest tokens.
        top_p: keep the fewest likeliest tokens whose probabilities reach p together.
        min_p: keep tokens at least p times as likely as the likeliest.
        max_new_tokens: the longest answer.
        seed: of the random numbers, together with the number of the row.

    Raises:
        ArgumentError: a value is outside its range.

    Source: repetition_penalty: Keskar et al. 2019, "CTRL", section 4.1; top_k: Fan et al. 2018, "Hierarchical
    Neural Story Generation", section 5.4; top_p: Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", section 3.1; min_p: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling", section 3.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = {
            "repetition_penalty": (self.repetition_penalty > 0, "more than 0", "use 1 for no penalty"),
            "temperature": (self.temperature >= 0, "0 or more", "use 0 for greedy decoding"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more", "leave it out to keep all tokens"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1", "use 1 to keep all tokens"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1", "use 0 to keep all tokens"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more", "ask for at least one token"),
        }
        for name, (fits, expected, remedy) in wanted.items():
            if not fits:
                raise ArgumentError(f"{name} is {getattr(self, name)}", expected, remedy)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    eos_id: int,
    pad_id: int,
    bos_id: int | None = None,
    forbidden_ids: Sequence[int] = (),
) -> list[list[int]]:
    """The new tokens of each row, without the prompt and without the `eos_id` that ended it.

    A row shorter than `max_new_tokens` has ended by itself. Takes a Decoder, which goes on with its
    prompts, or an EncoderDecoder, whose encoder reads them and whose decoder starts from `bos_id`. Runs in
    evaluation mode and leaves the model in the mode it had.

    Args:
        model: backbone and language-model head.
        prompts: token ids of each row, at least one.
        options: how tokens are chosen and how many.
        eos_id: ends a row; it can always be chosen.
        pad_id: stands before shorter prompts; never seen by them.
        bos_id: what the decoder of an EncoderDecoder starts from; a Decoder needs none.
        forbidden_ids: tokens that are never chosen, such as the special ones.

    Raises:
        ArgumentError: a prompt is empty, or it and its answer are longer than the model's positions reach.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    steps = stream(
        model, prompts, options, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id, forbidden_ids=forbidden_ids
    )
    for step in steps:
        for answer, token in zip(answers, step, strict=True):
            if token is not None:
                answer.append(token)
    return answers


@torch.no_grad()
def stream(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    eos_id: int,
    pad_id: int,
    bos_id: int | None = None,
    forbidden_ids: Sequence[int] = (),
) -> Iterator[list[int | None]]:
    """As `generate`, giving the next token of every row as it comes; None for a row that has ended."""
    if not prompts:
        return
    backbone = writer_of(model)
    batch, answer_ids, answer_key = first_batch(backbone, prompts, pad_id=pad_id, bos_id=bos_id)
    check_room(backbone, prompts, [options.max_new_tokens] * len(prompts))
    cache = backbone.new_cache(len(prompts), batch[answer_key].shape[1] + options.max_new_tokens - 1)
    forbidden = forbidden_mask(backbone, forbidden_ids, eos_id=eos_id)
    rows = [RowSampler(options, number) for number in range(len(prompts))]
    for row, ids in zip(rows, answer_ids, strict=True):
        row.note(ids, forbidden)
    ended = [False] * len(prompts)
    with evaluating(model):
        for _ in range(options.max_new_tokens):
            # `forward` and not a call: a compiled model would be recompiled for every length.
            logits = model.head.forward(backbone.forward(batch, cache)[:, -1]).float()
            chosen = choose_tokens(logits, rows, forbidden)
            tokens = chosen.tolist()
            ended = [was or token == eos_id for was, token in zip(ended, tokens, strict=True)]
            yield [None if end else token for end, token in zip(ended, tokens, strict=True)]
            if all(ended):
                return
            batch = {answer_key: chosen.unsqueeze(1)}


def penalize_repetition(
    logits: Float[Tensor, "B V"], seen: Bool[Tensor, "B V"], penalty: float
) -> Float[Tensor, "B V"]:
    """Make the tokens that are `seen` less likely by `penalty` (more than 1), or likelier (less than 1)."""
    changed = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, changed.clamp(max=torch.finfo(logits.dtype).max), logits)


def at_temperature(logits: Float[Tensor, "B V"], temperature: float) -> Float[Tensor, "B V"]:
    """Logits over `temperature`, however small; the largest of a row becomes 0, so none overflows."""
    limits = torch.finfo(logits.dtype)
    highest = logits.amax(dim=-1, keepdim=True)
    return (logits - highest) / min(max(temperature, limits.tiny), limits.max)


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """The k largest logits of each row and those equal to the smallest of them; the others are -inf."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """The fewest largest logits of each row whose probabilities reach `p` together; the others are -inf."""
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    reached_before = probabilities.cumsum(dim=-1) - probabilities
    dropped = reached_before >= p
    dropped[:, 0] = False
    return logits.masked_fill(dropped.scatter(1, index, dropped), float("-inf"))


def keep_min_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """The tokens of each row at least `p` times as likely as its likeliest; the others are -inf."""
    likeliest = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(logits < likeliest + math.log(p), float("-inf"))


def sample(logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The token at which a row's cumulative probability passes its number in [0, 1); never one with none."""
    probabilities = logits.softmax(dim=-1)
    # A parallel sum need not be monotone: by rounding it may rise over a token that has no probability.
    cumulative = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0, 0.0)
    passed = cumulative > uniform.unsqueeze(1) * cumulative.amax(dim=-1, keepdim=True)
    return passed.int().argmax(dim=-1)


class RowSampler:
    """What chooses the tokens of one row: its options, its own random numbers, and the tokens that it has.

    Args:
        options: how tokens are chosen.
        number: of the row among those of its seed: rows of one seed have different random numbers.
    """

    def __init__(self, options: SamplingOptions, number: int = 0) -> None:
        self.options = options
        self.alike = replace(options, seed=0, max_new_tokens=1)
        self._random = random.Random(f"{options.seed}/{number}")
        self._seen: Bool[Tensor, " V"] | None = None

    def note(self, ids: Sequence[int], forbidden: Bool[Tensor, " V"]) -> None:
        """Keep which tokens the row has, where that makes a difference."""
        if self.options.repetition_penalty != 1.0:
            self.seen(forbidden)[list(ids)] = True

    def seen(self, forbidden: Bool[Tensor, " V"]) -> Bool[Tensor, " V"]:
        """True for each token that the row has."""
        if self._seen is None:
            self._seen = torch.zeros_like(forbidden)
        return self._seen

    def uniform(self) -> float:
        """The next random number in [0, 1)."""
        # 24 bits are what a float32 below 1 holds: more would be rounded, now and then to 1.
        return self._random.getrandbits(24) / (1 << 24)


def choose_tokens(
    logits: Float[Tensor, "B V"], rows: Sequence[RowSampler], forbidden: Bool[Tensor, " V"]
) -> Int[Tensor, " B"]:
    """The next token of every row, each by its own options; rows of like options are done at once."""
    logits = logits.masked_fill(forbidden, float("-inf"))
    groups: dict[SamplingOptions, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.alike, []).append(number)
    if len(groups) == 1:
        chosen = _choose_alike(logits, rows, forbidden)
    else:
        chosen = torch.zeros(len(rows), dtype=torch.int64, device=logits.device)
        for numbers in groups.values():
            chosen[numbers] = _choose_alike(logits[numbers], [rows[n] for n in numbers], forbidden)
    if any(row.options.repetition_penalty != 1.0 for row in rows):
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.note([token], forbidden)
    return chosen


def _choose_alike(
    logits: Float[Tensor, "B V"], rows: Sequence[RowSampler], forbidden: Bool[Tensor, " V"]
) -> Int[Tensor, " B"]:
    options = rows[0].options
    if options.repetition_penalty != 1.0:
        seen = torch.stack([row.seen(forbidden) for row in rows])
        logits = penalize_repetition(logits, seen, options.repetition_penalty)
    if options.temperature == 0.0:
        return logits.argmax(dim=-1)
    numbers = torch.tensor([row.uniform() for row in rows], dtype=torch.float32, device=logits.device)
    return sample(_filtered(at_temperature(logits, options.temperature), options), numbers)


def _filtered(logits: Float[Tensor, "B V"], options: SamplingOptions) -> Float[Tensor, "B V"]:
    if options.top_k is not None:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p < 1.0:
        logits = keep_top_p(logits, options.top_p)
    if options.min_p > 0.0:
        logits = keep_min_p(logits, options.min_p)
    return logits

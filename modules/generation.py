"""Text generation, token by token: greedy or sampled, batched, with a key-value cache.

The tokens of a row depend on the model, its prompt, the options and its index in the batch, not on other
rows: each row has its own random numbers, and padding on the left is masked.
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
    """How the next token is chosen; the options apply in the order in which they are listed.

    Args:
        repetition_penalty: the logits of tokens that occur in the row are divided by it (multiplied if
            negative).
        temperature: logits are divided by it; 0 takes the most likely token, and later options have no
            effect.
        top_k: keep the k most likely tokens.
        top_p: keep the smallest set of most likely tokens whose probabilities add up to p.
        min_p: keep tokens at least p times as likely as the most likely one.
        max_new_tokens: the maximum number of new tokens.
        seed: the seed of the random numbers, combined with the index of the row.

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
        checks = {
            "repetition_penalty": (self.repetition_penalty > 0, "more than 0", "use 1 for no penalty"),
            "temperature": (self.temperature >= 0, "0 or more", "use 0 for greedy decoding"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more", "leave it out to keep all tokens"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1", "use 1 to keep all tokens"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1", "use 0 to keep all tokens"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more", "generate at least one token"),
        }
        for name, (is_valid, expected, remedy) in checks.items():
            if not is_valid:
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
    """Return the new tokens of each row, without the prompt and without `eos_id`.

    A row with fewer than `max_new_tokens` tokens ended with `eos_id`. A Decoder continues its prompts; the
    encoder of an EncoderDecoder reads them, and its decoder starts from `bos_id`. The model runs in
    evaluation mode, and its mode is restored.

    Args:
        model: a model with a language-model head.
        prompts: the token ids of each row, at least one.
        options: how tokens are chosen, and how many.
        eos_id: the token that ends a row; it can always be chosen.
        pad_id: the token that pads shorter prompts on the left; it is masked.
        bos_id: the token that the decoder of an EncoderDecoder starts from; a Decoder needs none.
        forbidden_ids: tokens that are never chosen, such as special tokens.

    Raises:
        ArgumentError: a prompt is empty, or a prompt and its output exceed the positions.
    """
    outputs: list[list[int]] = [[] for _ in prompts]
    steps = stream(
        model, prompts, options, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id, forbidden_ids=forbidden_ids
    )
    for step in steps:
        for output, token in zip(outputs, step, strict=True):
            if token is not None:
                output.append(token)
    return outputs


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
    """Like `generate`, but yield the next token of every row as it is generated; None for ended rows."""
    if not prompts:
        return
    backbone = writer_of(model)
    batch, output_ids, output_key = first_batch(backbone, prompts, pad_id=pad_id, bos_id=bos_id)
    check_room(backbone, prompts, [options.max_new_tokens] * len(prompts))
    cache = backbone.new_cache(len(prompts), batch[output_key].shape[1] + options.max_new_tokens - 1)
    forbidden = forbidden_mask(backbone, forbidden_ids, eos_id=eos_id)
    rows = [RowSampler(options, number) for number in range(len(prompts))]
    for row, ids in zip(rows, output_ids, strict=True):
        row.note(ids, forbidden)
    ended = [False] * len(prompts)
    with evaluating(model):
        for _ in range(options.max_new_tokens):
            # Call `forward` directly, because a compiled model would be recompiled for every length.
            logits = model.head.forward(backbone.forward(batch, cache)[:, -1]).float()
            chosen = choose_tokens(logits, rows, forbidden)
            tokens = chosen.tolist()
            ended = [was or token == eos_id for was, token in zip(ended, tokens, strict=True)]
            yield [None if end else token for end, token in zip(ended, tokens, strict=True)]
            if all(ended):
                return
            batch = {output_key: chosen.unsqueeze(1)}


def penalize_repetition(
    logits: Float[Tensor, "B V"], seen: Bool[Tensor, "B V"], penalty: float
) -> Float[Tensor, "B V"]:
    """Divide the odds of `seen` tokens by `penalty`: more than 1 makes them less likely."""
    changed = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, changed.clamp(max=torch.finfo(logits.dtype).max), logits)


def at_temperature(logits: Float[Tensor, "B V"], temperature: float) -> Float[Tensor, "B V"]:
    """Divide logits by `temperature`, however small; the maximum of each row becomes 0 to avoid overflow."""
    limits = torch.finfo(logits.dtype)
    highest = logits.amax(dim=-1, keepdim=True)
    return (logits - highest) / min(max(temperature, limits.tiny), limits.max)


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """Keep the k largest logits of each row and ties with the smallest of them; set the others to -inf."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Keep the fewest largest logits per row whose probabilities add up to `p`; set the others to -inf."""
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    reached_before = probabilities.cumsum(dim=-1) - probabilities
    dropped = reached_before >= p
    dropped[:, 0] = False
    return logits.masked_fill(dropped.scatter(1, index, dropped), float("-inf"))


def keep_min_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Keep tokens at least `p` times as likely as the most likely one in the row; set the others to -inf."""
    likeliest = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(logits < likeliest + math.log(p), float("-inf"))


def sample(logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return the token at which the cumulative probability of each row exceeds its number in [0, 1)."""
    probabilities = logits.softmax(dim=-1)
    # A parallel sum may not be monotonic: rounding may increase it at a token with probability 0.
    cumulative = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0, 0.0)
    passed = cumulative > uniform.unsqueeze(1) * cumulative.amax(dim=-1, keepdim=True)
    return passed.int().argmax(dim=-1)


class RowSampler:
    """Chooses the tokens of one row, with its own options, random numbers and previous tokens.

    Args:
        options: how tokens are chosen.
        number: the index of the row among those with the same seed, which have different random numbers.
    """

    def __init__(self, options: SamplingOptions, number: int = 0) -> None:
        self.options = options
        self.alike = replace(options, seed=0, max_new_tokens=1)
        self._random = random.Random(f"{options.seed}/{number}")
        self._seen: Bool[Tensor, " V"] | None = None

    def note(self, ids: Sequence[int], forbidden: Bool[Tensor, " V"]) -> None:
        """Record the tokens of the row if they affect the choice of the next one."""
        if self.options.repetition_penalty != 1.0:
            self.seen(forbidden)[list(ids)] = True

    def seen(self, forbidden: Bool[Tensor, " V"]) -> Bool[Tensor, " V"]:
        """Return a mask of the tokens that occur in the row."""
        if self._seen is None:
            self._seen = torch.zeros_like(forbidden)
        return self._seen

    def uniform(self) -> float:
        """Return the next random number in [0, 1)."""
        # A float32 below 1 has 24 bits: more would be rounded, sometimes up to 1.
        return self._random.getrandbits(24) / (1 << 24)


def choose_tokens(
    logits: Float[Tensor, "B V"], rows: Sequence[RowSampler], forbidden: Bool[Tensor, " V"]
) -> Int[Tensor, " B"]:
    """Choose the next token of every row by its own options; rows with equal options are batched."""
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

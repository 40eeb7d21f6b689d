"""What sampling and beam search have in common: the first batch, forbidden tokens, and length checks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from modules.errors import ArgumentError
from modules.model import Model
from modules.transformer import Decoder, EncoderDecoder

Writer = Decoder | EncoderDecoder


def writer_of(model: Model) -> Writer:
    """Return the backbone of a model that can generate text.

    Raises:
        ArgumentError: the backbone cannot generate text.
    """
    backbone = model.backbone
    if not isinstance(backbone, Decoder | EncoderDecoder):
        raise ArgumentError(
            f"a model with {type(backbone).__name__} cannot generate text",
            "a Decoder or an EncoderDecoder",
            "choose a model that was trained to continue text",
        )
    return backbone


def first_batch(
    backbone: Writer, prompts: Sequence[Sequence[int]], *, pad_id: int, bos_id: int | None
) -> tuple[dict[str, Tensor], Sequence[Sequence[int]], str]:
    """Return the first batch, the ids that each output continues, and the batch key for new tokens.

    Raises:
        ArgumentError: a prompt is empty, or `bos_id` is missing for an EncoderDecoder.
    """
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ArgumentError(f"prompt {row} is empty", "at least one token", "begin the prompt with <bos>")
    device = backbone.embedding.weight.device
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    padded = [[pad_id] * n + list(prompt) for n, prompt in zip(padding, prompts, strict=True)]
    batch = {"input_ids": torch.tensor(padded, device=device)}
    if any(padding):
        steps = torch.arange(longest, device=device)
        batch["attention_mask"] = (steps >= torch.tensor(padding, device=device).unsqueeze(1)).long()
    if isinstance(backbone, Decoder):
        return batch, prompts, "input_ids"
    if bos_id is None:
        raise ArgumentError("bos_id is None", "the token that the decoder starts from", "pass bos_id")
    batch["decoder_input_ids"] = torch.full((len(prompts), 1), bos_id, device=device)
    return batch, [[bos_id]] * len(prompts), "decoder_input_ids"


def check_room(backbone: Writer, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]) -> None:
    """Check in advance that prompts and outputs fit the positions; the last new token is never read.

    Raises:
        ArgumentError: names the longest prompt, the tokens that it needs, and the limit.
    """
    limit = backbone.position.max_tokens
    if limit is None:
        return
    sizes = [(len(prompt), n_new) for prompt, n_new in zip(prompts, max_new_tokens, strict=True)]
    if isinstance(backbone, Decoder):
        n_read, joined = [n_prompt + n_new - 1 for n_prompt, n_new in sizes], "and"
    else:
        n_read, joined = [max(size) for size in sizes], "or"
    row = n_read.index(max(n_read))
    if n_read[row] > limit:
        n_prompt, n_new = sizes[row]
        raise ArgumentError(
            f"prompt {row} of {n_prompt} tokens {joined} its output of {n_new} tokens exceed the positions",
            f"at most {limit} positions ({type(backbone.position).__name__})",
            "shorten the prompt or lower max_new_tokens",
        )


def forbidden_mask(backbone: Writer, forbidden_ids: Sequence[int], *, eos_id: int) -> Bool[Tensor, " V"]:
    """Return a mask of the tokens that are never chosen; `eos_id` always can be."""
    weight = backbone.output_embedding.weight
    forbidden = torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device)
    forbidden[sorted({*forbidden_ids} - {eos_id})] = True
    return forbidden


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode within the block, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

"""What sampling and beam search begin with: the first batch, what may be written, and room for it."""

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
    """The backbone of `model`.

    Raises:
        ArgumentError: it cannot write.
    """
    backbone = model.backbone
    if not isinstance(backbone, Decoder | EncoderDecoder):
        raise ArgumentError(
            f"a model with {type(backbone).__name__} cannot generate",
            "Decoder or EncoderDecoder",
            "choose a model that was trained to go on with a text",
        )
    return backbone


def first_batch(
    backbone: Writer, prompts: Sequence[Sequence[int]], *, pad_id: int, bos_id: int | None
) -> tuple[dict[str, Tensor], Sequence[Sequence[int]], str]:
    """What the model reads first, the ids that each answer goes on from, and the key of new tokens.

    Raises:
        ArgumentError: a prompt is empty, or an EncoderDecoder is given no `bos_id`.
    """
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ArgumentError(f"prompt {row} is empty", "at least one token", "begin it with <bos>")
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
        raise ArgumentError("bos_id is None", "the token that the decoder starts from", "give bos_id")
    batch["decoder_input_ids"] = torch.full((len(prompts), 1), bos_id, device=device)
    return batch, [[bos_id]] * len(prompts), "decoder_input_ids"


def check_room(backbone: Writer, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]) -> None:
    """Refuse what the positions do not reach, before anything is computed; the last new token is not read.

    Raises:
        ArgumentError: the prompt that needs most room, how much, and how much there is.
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
            f"prompt {row} of {n_prompt} tokens {joined} its answer of {n_new} do not fit",
            f"at most {limit} positions ({type(backbone.position).__name__})",
            "shorten the prompt or lower max_new_tokens",
        )


def forbidden_mask(backbone: Writer, forbidden_ids: Sequence[int], *, eos_id: int) -> Bool[Tensor, " V"]:
    """True for the tokens that are never chosen; `eos_id` always can be."""
    weight = backbone.output_embedding.weight
    forbidden = torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device)
    forbidden[sorted({*forbidden_ids} - {eos_id})] = True
    return forbidden


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module has the mode that it had again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

"""Shared parts of the tasks that generate text: labelled batches, smoothed loss, space for answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from datamodules.collate import Batch
from datamodules.corruption import IGNORE
from datamodules.features import pad
from datamodules.tokenizer import Tokenizer
from modules.decoding import evaluating
from modules.losses import CHUNK_TOKENS, labelled_positions, token_loss
from modules.model import Model
from modules.transformer import Transformer
from pipeline.tasks.base import TokenObjective
from pipeline.tasks.finetuning import Feature, FinetuneTask, FinishReason, Prediction
from pipeline.tasks.layouts import Layout

if TYPE_CHECKING:
    from modules.lit_module import Objective

#: What each array of a feature is padded with; an id is any, since padding is masked.
_PADDING = {"input_ids": 0, "decoder_input_ids": 0, "labels": IGNORE}


def collate_labelled(features: Sequence[Feature]) -> Batch:
    """Pad features (`input_ids`, `labels` and, for an encoder-decoder, `decoder_input_ids`) to a batch.

    A mask is there for a side that has padding, and `label_index` tells where the labels are.
    """
    arrays = {name: [feature[name] for feature in features] for name in features[0]}
    padded = {name: pad(values, value=_PADDING[name]) for name, values in arrays.items()}
    batch = {name: torch.from_numpy(values) for name, values in padded.items()}
    for prefix in ("", "decoder_"):
        name = f"{prefix}input_ids"
        if name in padded:
            width = padded[name].shape[1]
            real = np.arange(width) < np.array([len(values) for values in arrays[name]])[:, None]
            if not real.all():
                batch[f"{prefix}attention_mask"] = torch.from_numpy(real.astype(np.int64))
    batch["label_index"] = torch.from_numpy(np.flatnonzero(padded["labels"].reshape(-1) != IGNORE))
    return batch


class SmoothedObjective(TokenObjective):
    """Trains with smoothed labels, and measures without.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Sum of the smoothed losses in nats, and how many tokens they belong to."""
        return token_loss(
            model.hidden(batch),
            model.head,
            batch["labels"],
            batch["label_index"],
            label_smoothing=self.label_smoothing,
        )


class WritingTask(FinetuneTask):
    """A task whose model generates text with the backbone's own embedding."""

    #: The option that says how long a text may become.
    length_option: ClassVar[str]
    label_smoothing: float

    def cautions(self, predictions: Sequence[Prediction]) -> list[str]:
        """Return the number of texts that were cut."""
        n_cut = sum(one.details.get("finish_reason") == "length" for one in predictions)
        if not n_cut:
            return []
        limit = f"{self.length_option}={getattr(self, self.length_option)}"
        return [f"{n_cut:,} of {len(predictions):,} texts were cut at {limit} or at the context length"]

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad; labels are what is written, and its ends."""
        return collate_labelled(features)

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Scores of words by the backbone's own embedding."""
        return {"_target_": "modules.heads.LMHead"}

    def objective(self) -> "Objective":
        """Smoothed loss in training; loss, perplexity and accuracy of the labels as they are."""
        return SmoothedObjective(label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The ids of an answer without its end, how sure the model is, and whether it has ended by itself."""

    ids: Sequence[int]
    confidence: float | None = None
    ended: bool = True

    @property
    def finish_reason(self) -> FinishReason:
        """The reason why the answer ended."""
        return "stop" if self.ended else "length"


#: Prompts of one batch, and the most tokens that each may be answered with -> their answers.
Writer = Callable[[list[list[int]], int], list[Answer]]


@dataclass(frozen=True, kw_only=True)
class Room:
    """The length limit of answers: the context that a prompt leaves, and at most `most_tokens`.

    An answer is mostly short: at first a prompt is cut so that an eighth of the room is left. Only where the
    answer does not end in what is left, it is written again after a prompt that leaves more, up to half.

    Args:
        left: tokens of a prompt -> how many can be written after it.
        most_tokens: the longest answer, including its <eos>.
        limit: tokens that the backbone reads.
    """

    left: Callable[[int], int]
    most_tokens: int
    limit: int

    @property
    def steps(self) -> list[int]:
        """The tokens that prompts leave at each attempt: doubled from an eighth to a half of the context."""
        steps = [max(self.limit // 8, 1)]
        while 2 * steps[-1] <= self.limit // 2:
            steps.append(2 * steps[-1])
        return sorted({min(step, self.most_tokens) for step in steps})

    def answers(
        self, prompts: Callable[[int, int], list[int]], n_rows: int, write: Writer, *, batch_size: int
    ) -> list[Answer]:
        """The answer to each row, each from its own prompt alone; batches are of prompts of similar length.

        Args:
            prompts: (row, tokens to leave) -> the prompt of the row.
            n_rows: how many rows there are.
            write: answers a batch.
            batch_size: rows of a batch.
        """
        answers: dict[int, Answer] = {}
        allowed: dict[int, int] = {}
        for reserve in self.steps:
            pending = [
                row
                for row in range(n_rows)
                if row not in answers or (not answers[row].ended and allowed[row] < reserve)
            ]
            made = {row: prompts(row, reserve) for row in pending}
            allowed |= {row: self._allowed(len(prompt)) for row, prompt in made.items()}
            for batch in _batches(made, allowed, batch_size):
                written = write([made[row] for row in batch], allowed[batch[0]])
                answers.update(zip(batch, written, strict=True))
        return [answers[row] for row in range(n_rows)]

    def _allowed(self, n_prompt: int) -> int:
        """One of a few lengths, by the prompt alone: a row's neighbours have no say in its answer."""
        left = self.left(n_prompt)
        return max(step for step in (*self.steps, self.most_tokens) if step <= left)


def _batches(
    prompts: Mapping[int, Sequence[int]], allowed: Mapping[int, int], batch_size: int
) -> Iterator[list[int]]:
    """Rows that may be answered equally long, the shortest prompts first."""
    ordered = sorted(prompts, key=lambda row: (allowed[row], len(prompts[row])))
    for _, group in groupby(ordered, key=lambda row: allowed[row]):
        rows = list(group)
        yield from (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))


def written_feature(layout: Layout, tokenizer: Tokenizer, prompt: Sequence[int], answer: Answer) -> Feature:
    """A prompt and what was written after it, with its end where it has one, as labels."""
    end = [tokenizer.eos_id] if answer.ended else []
    labels = np.array([*answer.ids, *end], np.int64)
    return layout.feature(np.array(prompt, np.int64), labels, tokenizer)


def forbidden_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that no answer may contain: all special tokens except <eos>."""
    return [special for special in tokenizer.special_ids if special != tokenizer.eos_id]


@torch.no_grad()
def label_totals(model: Model, batch: Batch) -> npt.NDArray[np.float64]:
    """Return, for the labels of each row, the nats, their number, and how many have rank 1 (B, 3)."""
    device = model.backbone.embedding.weight.device
    with evaluating(model), torch.autocast(device.type, enabled=False):
        hidden = model.hidden({name: tensor.to(device) for name, tensor in batch.items()})
        rows, targets, n_labels = labelled_positions(
            hidden, batch["labels"].to(device), batch["label_index"].to(device)
        )
        found = []
        for chunk, labels in zip(*(torch.split(part, CHUNK_TOKENS) for part in (rows, targets)), strict=True):
            logits = model.head(chunk).float()
            nats = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
            found.append(torch.stack((nats, torch.ones_like(nats), (logits.argmax(-1) == labels).float()), 1))
    values = torch.cat(found)[:n_labels].double().cpu().numpy()
    totals = np.zeros((len(batch["labels"]), 3))
    np.add.at(totals, batch["label_index"].numpy() // batch["labels"].shape[1], values)
    return totals

"""What the tasks that generate text have in common: labelled batches, label smoothing, length limits."""

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
from pipeline import progress
from pipeline.tasks.base import TokenObjective
from pipeline.tasks.finetuning import Feature, FinetuneTask, FinishReason, Prediction
from pipeline.tasks.layouts import Layout

if TYPE_CHECKING:
    from modules.lit_module import Objective

#: The padding value of each array of a feature; ids may have any, since padding is masked.
_PADDING = {"input_ids": 0, "decoder_input_ids": 0, "labels": IGNORE}


def collate_labelled(features: Sequence[Feature]) -> Batch:
    """Pad features (`input_ids`, `labels` and, for an encoder-decoder, `decoder_input_ids`) to a batch.

    A side that is padded has an attention mask, and `label_index` contains the indices of the labels.
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
    """Cross-entropy with label smoothing for training, and without it for metrics.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum of the smoothed losses in nats and the number of labelled tokens."""
        return token_loss(
            model.hidden(batch),
            model.head,
            batch["labels"],
            batch["label_index"],
            label_smoothing=self.label_smoothing,
        )


class WritingTask(FinetuneTask):
    """A task whose model generates text, scored by the backbone's own embedding."""

    keeps_head: ClassVar[bool] = True
    #: The name of the option that limits the length of a text.
    length_option: ClassVar[str]
    label_smoothing: float

    def cautions(self, predictions: Sequence[Prediction]) -> list[str]:
        """Return a clause with the number of truncated texts, if there are any."""
        n_cut = sum(one.details.get("finish_reason") == "length" for one in predictions)
        if not n_cut:
            return []
        limit = f"{self.length_option}={getattr(self, self.length_option)}"
        return [f"{n_cut:,} of {len(predictions):,} texts were cut at {limit} or at the context length"]

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad features; only the generated text is labelled."""
        return collate_labelled(features)

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Return a language-model head that uses the backbone's own embedding."""
        return {"_target_": "modules.heads.LMHead"}

    def objective(self) -> "Objective":
        """Return an objective with label smoothing in the loss and without it in the metrics."""
        return SmoothedObjective(label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The ids of a generated text without its end token, its confidence, and whether it reached the end."""

    ids: Sequence[int]
    confidence: float | None = None
    ended: bool = True

    @property
    def finish_reason(self) -> FinishReason:
        """Why the generation ended."""
        return "stop" if self.ended else "length"


#: A function from the prompts of one batch and the maximum number of new tokens to their answers.
Writer = Callable[[list[list[int]], int], list[Answer]]


@dataclass(frozen=True, kw_only=True)
class Room:
    """The length limit of answers: the context that a prompt leaves, and at most `most_tokens`.

    Most answers are short, so a prompt is first truncated to leave an eighth of the context. Only if the
    answer does not end within that, it is generated again after a shorter prompt, which leaves up to a half.

    Args:
        left: a function from the length of a prompt to the number of tokens that can be generated after it.
        most_tokens: the maximum length of an answer, including its <eos>.
        limit: the context length of the backbone.
    """

    left: Callable[[int], int]
    most_tokens: int
    limit: int

    @property
    def steps(self) -> list[int]:
        """The tokens that prompts leave at each attempt, doubled from an eighth to a half of the context."""
        steps = [max(self.limit // 8, 1)]
        while 2 * steps[-1] <= self.limit // 2:
            steps.append(2 * steps[-1])
        return sorted({min(step, self.most_tokens) for step in steps})

    def answers(
        self, prompts: Callable[[int, int], list[int]], n_rows: int, write: Writer, *, batch_size: int
    ) -> list[Answer]:
        """Return the answer for each row; batches contain prompts of similar length.

        Args:
            prompts: a function from a row index and the number of tokens to leave to the prompt of the row.
            n_rows: the number of rows.
            write: generates the answers of a batch.
            batch_size: the number of rows per batch.
        """
        answers: dict[int, Answer] = {}
        allowed: dict[int, int] = {}
        for reserve in self.steps:
            pending = [
                row
                for row in range(n_rows)
                if row not in answers or (not answers[row].ended and allowed[row] < reserve)
            ]
            shortened = {row: prompts(row, reserve) for row in pending}
            allowed |= {row: self._allowed(len(prompt)) for row, prompt in shortened.items()}
            for batch in progress.batches(_batches(shortened, allowed, batch_size), len(pending)):
                written = write([shortened[row] for row in batch], allowed[batch[0]])
                answers.update(zip(batch, written, strict=True))
        return [answers[row] for row in range(n_rows)]

    def _allowed(self, n_prompt: int) -> int:
        """Return one of a few lengths, which depends on the prompt alone and not on the rest of its batch."""
        left = self.left(n_prompt)
        return max(step for step in (*self.steps, self.most_tokens) if step <= left)


def _batches(
    prompts: Mapping[int, Sequence[int]], allowed: Mapping[int, int], batch_size: int
) -> Iterator[list[int]]:
    """Yield batches of rows with the same length limit, the shortest prompts first."""
    ordered = sorted(prompts, key=lambda row: (allowed[row], len(prompts[row])))
    for _, group in groupby(ordered, key=lambda row: allowed[row]):
        rows = list(group)
        yield from (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))


def written_feature(layout: Layout, tokenizer: Tokenizer, prompt: Sequence[int], answer: Answer) -> Feature:
    """Return a prompt with the generated answer as labels, including its end token if it has one."""
    end = [tokenizer.eos_id] if answer.ended else []
    labels = np.array([*answer.ids, *end], np.int64)
    return layout.feature(np.array(prompt, np.int64), labels, tokenizer)


@torch.no_grad()
def label_totals(model: Model, batch: Batch) -> npt.NDArray[np.float64]:
    """Return, for each row (B, 3), the loss in nats and the number of labels and of correct predictions."""
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

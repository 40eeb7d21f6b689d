"""A model's outputs for many examples at once: sorted by length into batches, without gradients."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.collate import Batch
from datamodules.features import pad
from modules.decoding import evaluating
from modules.model import Model
from pipeline.tasks.finetuning import Feature

Ints = npt.NDArray[np.int64]


def batches_by_length(lengths: npt.ArrayLike, batch_size: int) -> list[Ints]:
    """Numbers of examples, the longest first and those of like length together, `batch_size` at a time."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def batch_outputs(
    model: Model,
    features: Sequence[Feature],
    collate: Callable[[Sequence[Feature]], Batch],
    *,
    batch_size: int,
) -> Iterator[tuple[Ints, Tensor, Batch]]:
    """For each batch the numbers (B,) of its examples, the model's output, and the batch on its device.

    In evaluation mode, without gradients, and in the precision of the weights whatever surrounds the call.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    device = model.backbone.embedding.weight.device
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for numbers in batches_by_length(lengths, batch_size):
            batch = collate([features[number] for number in numbers])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            yield numbers, model(batch), batch


def padded_inputs(ids: Sequence[Ints]) -> Batch:
    """`input_ids` (B, T) and, where a row is shorter than T, `attention_mask`; T is a multiple of 16."""
    inputs = pad(ids, value=0)  # any id: it is masked
    lengths = np.array([len(row) for row in ids])
    batch = {"input_ids": torch.from_numpy(inputs)}
    if (lengths < inputs.shape[1]).any():
        mask = np.arange(inputs.shape[1]) < lengths[:, None]
        batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    return batch


def without_padding(batch: Batch) -> Batch:
    """A batch of one row, cut to its tokens."""
    if "attention_mask" not in batch:
        return dict(batch)
    n_tokens = int(batch["attention_mask"].sum())
    return {name: tensor[:, :n_tokens] for name, tensor in batch.items() if name != "attention_mask"}

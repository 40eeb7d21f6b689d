"""Model outputs for many examples: sorted by length into batches, computed without gradients."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.collate import Batch
from datamodules.features import pad
from modules.decoding import evaluating
from modules.model import Model
from pipeline import progress
from pipeline.tasks.finetuning import Feature
from pipeline.tasks.scoring import Ints


def batches_by_length(lengths: npt.ArrayLike, batch_size: int) -> list[Ints]:
    """Return indices of examples in batches of similar length, the longest first."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def batch_outputs(
    model: Model,
    features: Sequence[Feature],
    collate: Callable[[Sequence[Feature]], Batch],
    *,
    batch_size: int,
) -> Iterator[tuple[Ints, Tensor, Batch]]:
    """Yield the indices (B,) of the examples of each batch, the model's output, and the batch on its device.

    The model runs in evaluation mode and in the precision of its weights, even within `autocast`.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    device = model.backbone.embedding.weight.device
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for numbers in progress.batches(batches_by_length(lengths, batch_size), len(features)):
            batch = collate([features[number] for number in numbers])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            yield numbers, model(batch), batch


def collate_inputs(features: Sequence[Feature]) -> Batch:
    """Return `input_ids` (B, T), and `attention_mask` if any row is padded; T: see `padded_width`."""
    ids = [feature["input_ids"] for feature in features]
    inputs = pad(ids, value=0)  # any id will do, because padding is masked
    lengths = np.array([len(row) for row in ids])
    batch = {"input_ids": torch.from_numpy(inputs)}
    if (lengths < inputs.shape[1]).any():
        mask = np.arange(inputs.shape[1]) < lengths[:, None]
        batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    return batch


def without_padding(batch: Batch) -> Batch:
    """Return a batch of one row without its padding."""
    if "attention_mask" not in batch:
        return dict(batch)
    n_tokens = int(batch["attention_mask"].sum())
    return {name: tensor[:, :n_tokens] for name, tensor in batch.items() if name != "attention_mask"}

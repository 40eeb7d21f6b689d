"""Compute the memory of each of several devices, and the largest micro batch that fits, from traced steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf

from modules.losses import CHUNK_TOKENS
from modules.recompute import Recompute
from pipeline.estimate.live_bytes import Bytes, Kind
from pipeline.estimate.options import Strategy
from pipeline.estimate.trace import DEEPER, PARTS, SHALLOW, UPDATE, Peaks, Step, trace, traced

#: The kinds that grow with the rows of a batch; the others are constant.
_OF_ROWS: tuple[Kind, ...] = ("activations", "temporary", "batch")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The memory of a step on a single device, for any number of rows.

    Args:
        n_rows: the number of traced rows.
        peaks: bytes by kind at the peak of each part of the step, for these rows.
        per_row: bytes that each further row adds, by part.
        layer_bytes: the weights of one layer.
        root_bytes: the weights outside of layers: embeddings, head, final norm.
        cast_share: the size of a weight in the compute precision relative to its stored size.
    """

    n_rows: int
    peaks: Peaks
    per_row: Mapping[str, float]
    layer_bytes: float
    root_bytes: float
    cast_share: float

    def on_each(self, strategy: Strategy, n_devices: int) -> dict[str, Bytes]:
        """Return the bytes by kind at the peak of each part, on each of `n_devices`."""
        return {
            part: self._shared(kinds, strategy, n_devices, gathers=part != UPDATE)
            for part, kinds in self.peaks.parts.items()
        }

    def peak(self, strategy: Strategy, n_devices: int) -> tuple[str, Bytes]:
        """Return the part of the step with the largest peak, and its bytes by kind."""
        return max(self.on_each(strategy, n_devices).items(), key=lambda item: sum(item[1].values()))

    def most_rows(self, strategy: Strategy, n_devices: int, memory_bytes: float) -> int:
        """Return the largest micro batch that fits, or 0."""
        most = inf
        for part, kinds in self.on_each(strategy, n_devices).items():
            room = memory_bytes - sum(kinds.values())
            slope = self.per_row[part]
            if slope > 0:
                most = min(most, self.n_rows + room / slope)
            elif room < 0:
                return 0
        return max(0, floor(most)) if most != inf else self.n_rows

    def _shared(self, kinds: Bytes, strategy: Strategy, n: int, *, gathers: bool) -> Bytes:
        """Return the bytes on each of `n` devices that share the work, from those of a single device.

        ddp: all of them, and buckets for averaging, as large as the gradients (PyTorch,
        `DistributedDataParallel`, `gradient_as_bucket_view=False`). zero1, zero2, fsdp: 1/n of the optimizer
        states; of these and the gradients; of these and the weights (Rajbhandari et al. 2020, "ZeRO", section
        5: P_os, P_os+g, P_os+g+p). With sharded gradients, those of one layer are complete until they are
        reduced. With sharded weights, two layers are complete at a time, one in use and one being gathered,
        and the root always, in the compute precision (Zhao et al. 2023, "PyTorch FSDP", sections 3.2.1 and
        3.3.2).
        """
        shared: dict[Kind, float] = dict(kinds)
        weights = kinds.get("parameters", 0)
        if strategy in ("ddp", "zero1"):
            shared["communication"] = weights
        if strategy in ("zero1", "zero2", "fsdp"):
            shared["optimizer"] = kinds.get("optimizer", 0) / n
        if strategy in ("zero2", "fsdp"):
            shared["gradients"] = kinds.get("gradients", 0) / n
            shared["communication"] = self.layer_bytes * gathers
        if strategy == "fsdp":
            shared["parameters"] = weights / n
            whole = (2 * self.layer_bytes + self.root_bytes) * self.cast_share
            shared["casts"] = whole * gathers
        return shared


def footprint(step: Step, *, n_rows: int, row_tokens: int, recompute: Recompute) -> Footprint:
    """Trace the step for `n_rows`, and for twice as many to find what each row adds.

    The loss keeps the logits of one chunk of at most `CHUNK_TOKENS` labels. The memory per row is therefore
    measured with more.
    """
    depth = int(step.model["backbone"]["n_layers"])
    low = max(n_rows, CHUNK_TOKENS // row_tokens + 1)
    first = traced(step, n_layers=SHALLOW, n_rows=low, recompute=recompute)
    deeper = traced(step, n_layers=DEEPER, n_rows=low, recompute=recompute)
    if low == n_rows and depth > DEEPER:
        peaks = first.along(deeper, (depth - SHALLOW) / (DEEPER - SHALLOW))
    else:
        peaks = trace(step, n_rows=n_rows, recompute=recompute)
    wider = traced(step, n_layers=SHALLOW, n_rows=2 * low, recompute=recompute)
    per_row = {
        part: (
            _of_rows(wider.parts[part])
            + (depth - SHALLOW) * _of_rows(deeper.parts[part])
            - (depth - SHALLOW + 1) * _of_rows(first.parts[part])
        )
        / low
        for part in PARTS
    }
    weights = [peaks.parts[UPDATE].get("parameters", 0.0) for peaks in (first, deeper)]
    layer_bytes = weights[1] - weights[0]
    return Footprint(
        n_rows=n_rows,
        peaks=peaks,
        per_row=per_row,
        layer_bytes=layer_bytes,
        root_bytes=weights[0] - SHALLOW * layer_bytes,
        cast_share=1.0 if step.precision == "fp32" else 0.5,
    )


def _of_rows(kinds: Bytes) -> float:
    return sum(kinds.get(kind, 0.0) for kind in _OF_ROWS)

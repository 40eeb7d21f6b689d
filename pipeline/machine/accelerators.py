"""The accelerators of `configs/accelerators.yaml`: memory, peak, power, price and measured utilisation."""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipeline.config.groups import CONFIGS
from pipeline.config.suggestions import suggest
from pipeline.errors import ConfigError
from pipeline.files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of device.

    Args:
        name: the name that a user types.
        device: a substring of the name that its driver reports.
        memory_gb: memory according to the data sheet, in decimal GB.
        tflops: peak rate of dense bf16 matrix products, in 10^12 FLOP/s.
        power_w: maximum power of the board, in watts.
        usd_per_hour: a list price; None: not known.
        price_source: the page, and the day on which it was read.
    """

    name: str
    device: str
    memory_gb: float
    tflops: float
    power_w: float
    usd_per_hour: float | None = None
    price_source: str | None = None

    @property
    def memory_bytes(self) -> float:
        """Usable memory in bytes."""
        return self.memory_gb * 1e9

    @property
    def flops_per_s(self) -> float:
        """Peak rate of matrix products in bf16, in FLOP/s."""
        return self.tflops * 1e12


@dataclass(frozen=True, kw_only=True)
class MeasuredShare:
    """The share of a device's peak that a training run reached (MFU), and who measured it."""

    device: str
    billions: float
    mfu: float
    source: str


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_yaml(CONFIGS / "accelerators.yaml")
    return table


@cache
def accelerators() -> dict[str, Accelerator]:
    """Return every accelerator by its name."""
    return {name: Accelerator(name=name, **row) for name, row in _table()["accelerators"].items()}


def accelerator_called(device_name: str) -> Accelerator | None:
    """Return the accelerator whose driver reports this name; None if it is not in the table."""
    found = [one for one in accelerators().values() if one.device in device_name]
    return max(found, key=lambda one: len(one.device), default=None)


def read_gpus(text: str) -> tuple[int | None, Accelerator]:
    """Parse `8xh100` as 8 and that accelerator; in `h100` the number is None.

    Raises:
        ConfigError: if the text has another form, or the accelerator is not in the table.
    """
    form = re.fullmatch(r"(?:(\d+)x)?([\w-]+)", text.strip().lower())
    names = list(accelerators())
    if form is None or form[2] not in names or form[1] == "0":
        raise ConfigError(
            f"gpus={text} does not name known devices",
            f"COUNTxNAME, with NAME one of {', '.join(names)}",
            suggest(form[2] if form else text, names, "write gpus=8xh100"),
        )
    return (int(form[1]) if form[1] else None), accelerators()[form[2]]


def measured_share(accelerator: Accelerator, n_parameters: float) -> MeasuredShare:
    """Return the measurement nearest in parameters, of this device or of its stand-in."""
    device = _table()["like"].get(accelerator.name, accelerator.name)
    rows = [MeasuredShare(**row) for row in _table()["measured"] if row["device"] == device]
    return min(rows, key=lambda row: abs(math.log(row.billions * 1e9 / n_parameters)))

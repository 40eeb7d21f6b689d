"""The options of an estimate."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Strategy = Literal["single", "ddp", "zero1", "zero2", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """The options of an estimate, in addition to the configuration of the training.

    Args:
        strategy: how several devices share the work, including strategies that Prelude does not train with;
            auto: as the trainer does.
        tokens: the number of tokens to train on; null: those of trainer.max_steps.
        mfu: the share of the device's peak performance that training reaches; null: measured here, or the
            nearest entry of configs/accelerators.yaml.
        usd_per_hour: the price of one device; null: that of configs/accelerators.yaml.
        probe_steps: the number of steps that are timed on this machine; 0: none.
    """

    strategy: Literal["auto", "ddp", "zero1", "zero2", "fsdp"] = "auto"
    tokens: Annotated[int, Field(ge=1)] | None = None
    mfu: Annotated[float, Field(gt=0, le=1)] | None = None
    usd_per_hour: Annotated[float, Field(ge=0)] | None = None
    probe_steps: Annotated[int, Field(ge=0)] = 20

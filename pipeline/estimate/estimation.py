"""Estimate the memory, time and cost of a training from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from modules.meta import on_meta_device
from modules.model import Model
from modules.recompute import Recompute
from modules.transformer import Transformer
from pipeline.config.construct import construct
from pipeline.config.model import build_head
from pipeline.config.plain import Config
from pipeline.estimate.devices import Devices, devices_of
from pipeline.estimate.live_bytes import Bytes
from pipeline.estimate.memory import Footprint, footprint
from pipeline.estimate.options import EstimateOptions, Strategy
from pipeline.estimate.probe import probe
from pipeline.estimate.rows import step_of
from pipeline.estimate.trace import UPDATE, Step
from pipeline.estimate.work import (
    TOKENS_PER_PARAMETER,
    Work,
    cache_bytes,
    checkpoint_bytes,
    parameters_by_part,
    work_of,
)
from pipeline.machine.accelerators import measured_share
from pipeline.machine.options import TrainerOptions

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per step on all devices, the share of their peak performance (MFU), and the source of both."""

    step_s: float
    mfu: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of training on a number of tokens."""

    tokens: float
    steps: float
    flops: float
    hours: float | None
    kwh: float | None
    usd: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimate of a training."""

    devices: Devices
    strategy: Strategy
    trainer: TrainerOptions
    options: EstimateOptions
    vocab_size: int
    parts: Mapping[str, int]
    work: Work
    row_tokens: int
    footprints: Mapping[Recompute, Footprint]
    speed: Speed | None

    @property
    def n_parameters(self) -> int:
        """The number of parameters."""
        return sum(self.parts.values())

    @property
    def chosen(self) -> Footprint:
        """The memory with the configured activation checkpointing."""
        return self.footprints[self.trainer.activation_checkpointing]

    @cached_property
    def peak(self) -> tuple[str, Bytes]:
        """The part of the step with the highest memory, and its bytes by kind, per device."""
        return self.chosen.peak(self.strategy, self.devices.count)

    @property
    def peak_bytes(self) -> float:
        """The peak memory of each device in bytes."""
        return sum(self.peak[1].values())

    @property
    def fits(self) -> bool:
        """Whether the peak is within the memory of a device."""
        return self.peak_bytes <= self.devices.memory_bytes

    @property
    def rows_per_step(self) -> int:
        """The number of rows per step on all devices."""
        return self.trainer.batch_size * self.trainer.accumulate * self.devices.count

    def most_rows(self, recompute: Recompute, strategy: Strategy) -> int:
        """Return the largest micro batch that fits."""
        fitted = self.footprints[recompute]
        return fitted.most_rows(strategy, self.devices.count, self.devices.memory_bytes)

    def cost(self, tokens: float) -> Cost:
        """Return the cost of training on a number of tokens."""
        steps = tokens / (self.work.tokens * self.rows_per_step)
        seconds = None if self.speed is None else steps * self.speed.step_s
        known, count = self.devices.accelerator, self.devices.count
        price = self.options.usd_per_hour
        if price is None and known is not None:
            price = known.usd_per_hour
        return Cost(
            tokens=tokens,
            steps=steps,
            flops=tokens * self.work.flops_per_token,
            hours=None if seconds is None else seconds / 3600,
            kwh=None if seconds is None or known is None else seconds * known.power_w * count / KWH,
            usd=None if seconds is None or price is None else seconds / 3600 * price * count,
        )

    @property
    def costs(self) -> dict[str, Cost]:
        """The cost of the configured training, and of one with 20 tokens per parameter."""
        budget = self.options.tokens or self.trainer.n_steps * self.rows_per_step * self.work.tokens
        name = "estimate.tokens" if self.options.tokens else f"{self.trainer.n_steps:,} steps, as configured"
        rule = f"{TOKENS_PER_PARAMETER} tokens per parameter"
        return {name: self.cost(budget), rule: self.cost(TOKENS_PER_PARAMETER * self.n_parameters)}

    @property
    def disk_bytes(self) -> dict[str, float]:
        """The disk usage of the run in bytes."""
        state = self.footprints["none"].peaks.parts[UPDATE]
        tokens = next(iter(self.costs.values())).tokens
        weights = state.get("parameters", 0.0)
        return {
            "checkpoints and bundles": checkpoint_bytes(weights, state.get("optimizer", 0.0)),
            "token rows": cache_bytes(tokens, self.vocab_size),
        }


def estimate_of(config: Config) -> Estimate:
    """Trace and count the work of the training that `config` describes; on this machine, also time it.

    Raises:
        ConfigError: the task learns from labelled rows, or the devices are unknown.
    """
    trainer, options = construct(config.trainer, TrainerOptions), construct(config.estimate, EstimateOptions)
    devices = devices_of(config.gpus, trainer)
    step = step_of(config, trainer, n_devices=devices.count, on_gpu=devices.is_gpu, is_here=devices.is_here)
    with on_meta_device():
        backbone = construct(step.model["backbone"], Transformer, vocab_size=step.vocab_size)
        model = Model(backbone, build_head(step.model["head"], backbone))
    row = step.batch(1)
    row_tokens = int(row["input_ids"].shape[1])
    work = work_of(model, row)
    parts = parameters_by_part(model)
    return Estimate(
        devices=devices,
        strategy=_strategy(options, trainer, devices),
        trainer=trainer,
        options=options,
        vocab_size=step.vocab_size,
        parts=parts,
        work=work,
        row_tokens=row_tokens,
        footprints={
            recompute: footprint(step, n_rows=trainer.batch_size, row_tokens=row_tokens, recompute=recompute)
            for recompute in RECOMPUTE
        },
        speed=_speed(step, trainer, options, devices, work, sum(parts.values())),
    )


def _strategy(options: EstimateOptions, trainer: TrainerOptions, devices: Devices) -> Strategy:
    if options.strategy != "auto":
        return options.strategy
    if devices.count == 1:
        return "single"
    return "fsdp" if trainer.is_sharded else "ddp"


def _speed(
    step: Step,
    trainer: TrainerOptions,
    options: EstimateOptions,
    devices: Devices,
    work: Work,
    n_parameters: int,
) -> Speed | None:
    """Return the speed from the configured MFU, from steps timed here, or from published measurements."""
    rows = trainer.batch_size * trainer.accumulate  # per device
    known = devices.accelerator
    if devices.is_here and options.probe_steps and options.mfu is None:
        timed = probe(
            step,
            n_rows=trainer.batch_size,
            accumulate=trainer.accumulate,
            recompute=trainer.activation_checkpointing,
            n_steps=options.probe_steps,
            device=torch.device("cuda" if devices.is_gpu else "cpu"),
        )
        step_s = timed.step_s * (1 if devices.is_gpu else devices.count)  # processes share the cores
        mfu = None if known is None else rows * work.flops / timed.step_s / known.flops_per_s
        return Speed(step_s=step_s, mfu=mfu, source=f"{timed.n_steps} steps timed on this machine")
    if known is None:
        return None
    if options.mfu is not None:
        mfu, source = options.mfu, "set by estimate.mfu"
    else:
        row = measured_share(known, n_parameters)
        mfu = row.mfu
        source = f"{row.device.upper()} with {row.billions:g} billion parameters, {row.source}"
    return Speed(step_s=rows * work.flops / (mfu * known.flops_per_s), mfu=mfu, source=source)

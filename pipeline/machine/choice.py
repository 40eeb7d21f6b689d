"""Resolve options that are set to `auto` when a run begins, from its machine and its size.

The choices are recorded, so that a run that is resumed or reproduced, even on another machine, computes as
before.
"""

from collections.abc import Mapping
from typing import Any

import torch

from modules.hardware import bf16_speedup_on_cpu
from modules.muon import fastest_newton_schulz, fitting_update_every
from pipeline import processes
from pipeline.config.construct import construct
from pipeline.config.plain import Config, select, to_plain
from pipeline.config.recorded import with_defaults
from pipeline.machine.compiling import is_faster_compiled
from pipeline.machine.devices import (
    choose_precision,
    count_devices,
    describe_device,
    device_of,
    rows_per_step,
)
from pipeline.machine.options import TrainerOptions

AUTO = "auto"
PRECISION, DEVICES = "trainer.precision", "trainer.devices"
COMPILE = "trainer.compile"
NEWTON_SCHULZ, UPDATE_EVERY = "optimizer.newton_schulz", "optimizer.update_every"


def choose_for_machine(config: Config) -> dict[str, Any]:
    """Return dotted key -> value for this machine, for each `auto` key of a stage that computes."""
    if "trainer" not in config:
        return {}
    options = construct(config.trainer, TrainerOptions)
    chosen: dict[str, Any] = {}
    if options.precision == AUTO:
        chosen[PRECISION] = choose_precision(options)
    if "optimizer" not in config:
        return chosen
    if options.devices == AUTO:
        chosen[DEVICES] = count_devices(options)
    optimizer = with_defaults(config)["optimizer"]
    if optimizer.get("newton_schulz") == AUTO:
        chosen[NEWTON_SCHULZ] = fastest_newton_schulz(device_of(options))
    if optimizer.get("update_every") == AUTO:
        chosen[UPDATE_EVERY] = choose_update_every(config, rows_per_step(options))
    if options.compile == AUTO:
        chosen[COMPILE] = is_faster_compiled(with_chosen(config, chosen))
    return chosen


def choose_update_every(config: Config, n_rows: int) -> int:
    """Return the steps between two updates of a matrix by Muon, for steps of `n_rows` full rows."""
    backbone = config.model.backbone
    return fitting_update_every(int(backbone.layer.d_model), n_rows * int(backbone.max_seq_len))


def choose_again(config: Config, chosen: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the choices for a resumed run: the recorded ones, but with the current number of devices."""
    if chosen is None or "optimizer" not in config:
        return None if chosen is None else dict(chosen)
    again, trainer = dict(chosen), with_defaults(config)["trainer"]
    if trainer["compile"] == AUTO:
        again.setdefault(COMPILE, False)  # which earlier versions did not choose
    elif COMPILE in again:
        again[COMPILE] = trainer["compile"]
    if DEVICES in chosen and trainer["devices"] != AUTO:
        again[DEVICES] = trainer["devices"]
    elif DEVICES in chosen and (launched := processes.count_launched()) > 1:
        again[DEVICES] = launched
    return again


def with_chosen(config: Config, chosen: Mapping[str, Any] | None) -> Config:
    """Return the configuration with the chosen values."""
    return _with(config, chosen or {})


def as_asked(config: Config, chosen: Mapping[str, Any] | None) -> Config:
    """Set chosen values back to `auto`: a run is found by what the user requested."""
    asked = {key: AUTO for key, value in (chosen or {}).items() if select(config, key) == value}
    return _with(config, asked)


def _with(config: Config, values: Mapping[str, Any]) -> Config:
    plain = to_plain(config)
    for key, value in values.items():
        group, _, name = key.partition(".")
        plain[group][name] = value
    return Config(plain)


def describe_machine(config: Config, chosen: Mapping[str, Any] | None) -> str:
    """Describe the device, the precisions that it computes in, and why these were chosen."""
    options = construct(config.trainer, TrainerOptions)
    told = describe_device(options)
    newton_schulz, every = select(config, NEWTON_SCHULZ), select(config, UPDATE_EVERY) or 1
    if newton_schulz is not None:
        told += f", Newton-Schulz in {newton_schulz}" + (f" every {every} steps" if every > 1 else "")
    if options.compile is True:
        told += ", layers compiled"
    if device_of(options) == torch.device("cpu") and {PRECISION, NEWTON_SCHULZ} & {*(chosen or {})}:
        told += f" (bf16 is {bf16_speedup_on_cpu():.2g} times as fast as fp32 here)"
    return told

"""Keep the estimates for this machine, and compare each training with the estimate of its configuration.

An estimate takes seconds, for which no training waits: what `make estimate` predicted before is read again
when a training of the same configuration ends.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.files import write_whole
from pipeline.words import size_words

#: What memory and time of a step depend on: groups, and options of the trainer.
GROUPS = ("task", "model", "tokenizer", "optimizer")
TRAINER = (
    *("batch_size", "accumulate", "precision", "compile", "activation_checkpointing", "ema_decay"),
    *("accelerator", "devices", "strategy"),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a step, predicted or measured; None if it is not known.

    Args:
        step_s: seconds per step, without validations and checkpoints.
        peak_bytes: the largest number of bytes in use on a device.
    """

    step_s: float | None
    peak_bytes: float | None


def keep(config: Config, cost: Cost) -> None:
    """Keep the estimate of a configuration, with what was chosen for this machine."""
    file = _file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(asdict(cost)) + "\n")


def kept(config: Config) -> Cost | None:
    """Return the estimate of a configuration; None if there is none."""
    file = _file(config)
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Cost(step_s=values["step_s"], peak_bytes=values["peak_bytes"])


def cost_metrics(measured: Cost, estimated: Cost | None) -> dict[str, float]:
    """Return `step_s` and `peak_bytes` as measured, and as `estimated_...`; nothing without an estimate."""
    if estimated is None:
        return {}
    return {
        f"{prefix}{name}": value
        for prefix, cost in (("", measured), ("estimated_", estimated))
        for name, value in asdict(cost).items()
        if value is not None
    }


def cost_facts(measured: Cost, estimated: Cost | None) -> dict[str, str]:
    """Describe the cost of a step next to its estimate."""
    if estimated is None:
        return {}
    facts = {}
    if measured.step_s is not None and estimated.step_s is not None:
        words = f"{measured.step_s:.3g} s, estimated {estimated.step_s:.3g} s"
        facts["time per step"] = words + _difference(measured.step_s, estimated.step_s)
    if measured.peak_bytes is not None and estimated.peak_bytes is not None:
        words = f"{size_words(measured.peak_bytes)}, estimated {size_words(estimated.peak_bytes)}"
        facts["peak memory"] = words + _difference(measured.peak_bytes, estimated.peak_bytes)
    return facts


def _difference(measured: float, estimated: float) -> str:
    return f" ({measured / estimated - 1:+.1%} from the estimate)"


def _file(config: Config) -> Path:
    plain = with_defaults(config)
    trainer: Mapping[str, object] = plain["trainer"]
    parts = {name: plain[name] for name in GROUPS} | {name: trainer.get(name) for name in TRAINER}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return Path(config.cache_dir) / "estimates" / f"{digest}.json"

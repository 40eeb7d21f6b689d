"""Summarize an estimate in words."""

from pipeline.estimate.estimation import RECOMPUTE, Estimate
from pipeline.estimate.work import LEAST_TOKENS_OF_RULE, advised_batch_tokens
from pipeline.words import count, size_words


def verdict(estimate: Estimate) -> str:
    """Say whether it fits, how long it takes, and what to change if it does not fit."""
    of = f"{size_words(estimate.peak_bytes)} of {size_words(estimate.devices.memory_bytes)}"
    where = estimate.peak[0]
    lines = [f"{count(estimate.n_parameters)} parameters on {devices_words(estimate)}: {of} at the {where}."]
    cost = next(iter(estimate.costs.values()))
    if cost.hours is not None:
        money = "" if cost.usd is None else f" and {cost.usd:,.{0 if cost.usd >= 10 else 2}f} USD"
        lines.append(f"{count(cost.tokens)} tokens take about {_duration(cost.hours)}{money}.")
    if not estimate.fits:
        lines.append(f"Change: {remedy(estimate)}.")
    return " ".join(lines)


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.1f} minutes"


def remedy(estimate: Estimate) -> str:
    """Return the smallest change that makes it fit: batch size, checkpointing, sharding, or devices."""
    now = estimate.trainer.activation_checkpointing
    for recompute in RECOMPUTE[RECOMPUTE.index(now) :]:
        rows = estimate.most_rows(recompute, estimate.strategy)
        if rows >= 1:
            return " ".join(_settings(estimate, rows, recompute if recompute != now else None))
    if estimate.devices.count > 1:
        for recompute in RECOMPUTE:
            rows = estimate.most_rows(recompute, "fsdp")
            if rows >= 1:
                settings = _settings(estimate, rows, recompute if recompute != now else None)
                return " ".join(["trainer.strategy=fsdp", *settings])
    if estimate.devices.is_gpu:
        return "more devices, devices with more memory, or a smaller model (size=...)"
    return "a machine with more memory, or a smaller model (size=...)"


def _settings(estimate: Estimate, rows: int, recompute: str | None) -> list[str]:
    settings = [] if recompute is None else [f"trainer.activation_checkpointing={recompute}"]
    trainer = estimate.trainer
    if rows < trainer.batch_size:
        whole = trainer.batch_size * trainer.accumulate
        rows = max(n for n in range(1, rows + 1) if whole % n == 0)
        settings += [f"trainer.batch_size={rows}", f"trainer.accumulate={whole // rows}"]
    return settings


def batch_advice(estimate: Estimate) -> str:
    """Describe the batch size, and the largest efficient one by a published rule."""
    tokens = next(iter(estimate.costs.values())).tokens
    now = estimate.rows_per_step * estimate.work.tokens
    current = f"{count(now)} tokens per step"
    advised = advised_batch_tokens(tokens)
    if advised is None:
        return f"{current}; the rule for large trainings applies from {count(LEAST_TOKENS_OF_RULE)} tokens"
    rows = advised / estimate.work.tokens / estimate.devices.count / estimate.trainer.batch_size
    accumulate = max(1, round(rows))
    return (
        f"{current}; up to about {count(advised)} are efficient for {count(tokens)} tokens "
        f"(trainer.accumulate={accumulate}; Bergsma et al. 2025, exponent 0.383)"
    )


def devices_words(estimate: Estimate) -> str:
    """Describe the devices and how they share the work."""
    devices = estimate.devices
    if devices.count == 1:
        return f"one {devices.name}"
    return f"{devices.count:,} {devices.name} with {estimate.strategy}"

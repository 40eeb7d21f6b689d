"""Estimate what pretraining would need, before it runs."""

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config


def estimate(config: Config) -> StageResult:
    """Print the verdict, and the numbers that it is based on.

    Raises:
        ConfigError: if the task learns from labelled rows, or the devices are not known.
    """
    from pipeline.estimate.estimation import estimate_of
    from pipeline.estimate.kept import Cost, keep
    from pipeline.estimate.show import show
    from pipeline.machine.choice import AUTO, COMPILE, choose_for_machine, with_chosen

    found = estimate_of(config)
    if found.devices.is_here:
        cost = Cost(step_s=found.speed.step_s if found.speed else None, peak_bytes=found.peak_bytes)
        if found.trainer.compile == AUTO:
            config = with_chosen(config, {COMPILE: False})  # as estimated
        keep(with_chosen(config, choose_for_machine(config)), cost)
    report.page(show(found))
    price = next(iter(found.costs.values()))
    metrics = {
        "fits": float(found.fits),
        "parameters": float(found.n_parameters),
        "peak_bytes": found.peak_bytes,
        "flops_per_token": found.work.flops_per_token,
        "tokens": price.tokens,
        **{name: value for name in ("hours", "kwh", "usd") if (value := getattr(price, name)) is not None},
    }
    return StageResult(stage="estimate", metrics=metrics)

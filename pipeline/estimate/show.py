"""Show an estimate in the terminal, with the verdict first."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.estimate.estimation import RECOMPUTE, Cost, Estimate
from pipeline.estimate.options import Strategy
from pipeline.estimate.verdict import batch_advice, devices_words, verdict
from pipeline.words import count, size_words

#: Labels for the kinds of memory.
KINDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "casts": "weights in compute precision",
    "activations": "activations",
    "temporary": "temporary",
    "communication": "communication",
    "batch": "batch",
}
NOT_KNOWN = "not known"


def show(estimate: Estimate) -> RenderableType:
    """Return the verdict with tables of the model, memory, what fits, time and cost."""
    title = "Fits" if estimate.fits else "Does not fit"
    color = "green" if estimate.fits else "red"
    summary = Panel(Text(verdict(estimate)), title=f"[bold {color}]{title}[/]", title_align="left")
    tables = (_model(estimate), _memory(estimate), _what_fits(estimate), _costs(estimate), _notes(estimate))
    return Group(summary, *(part for table in tables for part in (Text(), table)))


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _model(estimate: Estimate) -> Table:
    table = _table("Parameters", ("", "", ""))
    for name, number in estimate.parts.items():
        table.add_row(name, f"{number:,}", f"{number / estimate.n_parameters:.1%}")
    table.add_row("all", f"{estimate.n_parameters:,}", "", style="bold")
    return table


def _memory(estimate: Estimate) -> Table:
    where, kinds = estimate.peak
    table = _table(f"Peak memory of each device, at the {where}", ("", "", ""))
    for kind, name in KINDS.items():
        size = kinds.get(kind, 0.0)  # type: ignore[call-overload]
        if size:
            table.add_row(name, size_words(size), f"{size / estimate.peak_bytes:.1%}")
    table.add_row("all", size_words(estimate.peak_bytes), "", style="bold")
    return table


def _what_fits(estimate: Estimate) -> Table:
    title = (
        f"Peak memory with trainer.batch_size={estimate.trainer.batch_size}, rows of {estimate.row_tokens:,} "
        "tokens; and the largest batch_size that fits"
    )
    table = _table(title, ("trainer.activation_checkpointing", *RECOMPUTE))
    strategies: tuple[Strategy, ...] = ("single",)
    if estimate.devices.count > 1:
        strategies = ("ddp", "zero1", "zero2", "fsdp")
    for strategy in strategies:
        cells = []
        for recompute in RECOMPUTE:
            _, kinds = estimate.footprints[recompute].peak(strategy, estimate.devices.count)
            cells.append(f"{size_words(sum(kinds.values()))}; {estimate.most_rows(recompute, strategy):,}")
        style = "bold" if strategy == estimate.strategy else ""
        table.add_row("one device" if strategy == "single" else strategy, *cells, style=style)
    return table


def _costs(estimate: Estimate) -> Table:
    columns = ("Training on", "tokens", "steps", "FLOPs", "hours", "kWh", "USD")
    table = _table(f"Work: {estimate.work.flops_per_token:.3g} FLOPs per token", columns)
    for name, cost in estimate.costs.items():
        table.add_row(name, count(cost.tokens), f"{cost.steps:,.0f}", f"{cost.flops:.3g}", *_prices(cost))
    return table


def _prices(cost: Cost) -> list[str]:
    return [
        NOT_KNOWN if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        for value in (cost.hours, cost.kwh, cost.usd)
    ]


def _notes(estimate: Estimate) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    speed, known = estimate.speed, estimate.devices.accelerator
    table.add_row("devices", devices_words(estimate))
    if speed is not None:
        share = "" if speed.mfu is None else f"{speed.mfu:.1%} of the peak (MFU), "
        table.add_row("speed", f"{share}{speed.step_s:.3g} s per step; source: {speed.source}")
    if known is not None and estimate.options.usd_per_hour is None and known.usd_per_hour is not None:
        table.add_row("price", f"{known.usd_per_hour} USD per hour and device; {known.price_source}")
    for name, size in estimate.disk_bytes.items():
        table.add_row("disk", f"{name}: {size_words(size)}")
    table.add_row("batch", batch_advice(estimate))
    return table

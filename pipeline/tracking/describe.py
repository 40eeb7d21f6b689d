"""A run's name and its description in Markdown, from its configuration and its numbers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.tracking.redaction import flatten

#: The settings a reader looks for first, by the last part of their key, in this order.
_SETTINGS = (
    "n_layers", "d_model", "n_heads", "d_ff", "max_seq_len", "vocab_size", "dropout",
    "lr", "weight_decay", "batch_size", "accumulate", "max_steps", "max_epochs", "time_budget_s",
    "precision", "seed", "init_from", "bundle",
)  # fmt: skip
_MAX_ROWS = 24


def readable_name(*words: str, at: datetime) -> str:
    """A run's name: its words and the moment it began, for example `pretrain causal_lm tiny 11-23 145703`."""
    return " ".join([*(word for word in words if word), at.strftime("%m-%d %H%M%S")])


def describe(
    stage: str,
    *,
    config: Mapping[str, Any],
    datasets: Sequence[str],
    results: Mapping[str, float],
    provenance: Mapping[str, str],
) -> str:
    """What this run was, with what and how well, for somebody who has seen nothing of it."""
    parts = [f"**{stage}**" + (f" of {', '.join(parts)}" if (parts := _classes(config)) else "") + "."]
    if results:
        parts.append(result_table(results))
    else:
        parts.append("_Not finished: the results are written here at the end._")
    if datasets:
        parts.append("Data: " + "; ".join(datasets) + ".")
    if settings := _settings(config):
        parts.append("| setting | value |\n|---|---|\n" + settings)
    commit = provenance.get("git_commit", "none")
    changed = " with uncommitted changes" if provenance.get("git_dirty") == "true" else ""
    machine = f"Machine: {provenance.get('cpu')}; GPU: {provenance.get('gpu')}."
    parts.append(f"Code: commit `{commit[:12]}`{changed}. {machine}")
    parts.append(f"```\n{provenance.get('command', '')}\n```")
    return "\n\n".join(parts)


def result_table(results: Mapping[str, float]) -> str:
    """The numbers in Markdown, each with its interval where it has one."""
    rows = "\n".join(f"| {key} | {_with_interval(key, results)} |" for key in without_ends(results))
    return f"| result | value |\n|---|---|\n{rows}"


def without_ends(values: Mapping[str, float]) -> dict[str, float]:
    """Less the ends of intervals, `NAME_low` and `NAME_high`: they belong to a number and are none alone."""
    return {
        key: value
        for key, value in values.items()
        if not (key.endswith(("_low", "_high")) and key.rpartition("_")[0] in values)
    }


def _with_interval(key: str, results: Mapping[str, float]) -> str:
    low, high = results.get(f"{key}_low"), results.get(f"{key}_high")
    interval = "" if low is None or high is None else f" (95 %: {_number(low)} to {_number(high)})"
    return _number(results[key]) + interval


def _classes(config: Mapping[str, Any]) -> list[str]:
    """The names of the classes that the configuration builds for these groups, in the reader's order."""
    flat = flatten(config)
    groups = ("model", "task", "data", "optimizer")
    found = [
        min(keys, key=lambda key: key.count("."))
        for group in groups
        if (keys := [k for k in flat if k.startswith(f"{group}.") and k.endswith("._target_")])
    ]
    return [flat[key].rpartition(".")[2] for key in found]


def _settings(config: Mapping[str, Any]) -> str:
    flat = flatten(config, max_chars=80)
    rows: dict[str, str] = {}
    for wanted in _SETTINGS:
        for key, value in flat.items():
            # A size stands in the model too, which is what was built.
            if key.rpartition(".")[2] == wanted and value != "null" and not key.startswith("size."):
                rows.setdefault(key, value.replace("|", "\\|"))
    return "\n".join(f"| {key} | {value} |" for key, value in list(rows.items())[:_MAX_ROWS])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"

"""Build a run's description in Markdown and its final values, from its configuration and results."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.tracking.redaction import flatten

#: The most important settings, by the last part of their key, in display order.
_SETTINGS = (
    "n_layers", "d_model", "n_heads", "d_ff", "max_seq_len", "vocab_size", "dropout",
    "lr", "weight_decay", "batch_size", "accumulate", "max_steps", "max_epochs", "time_budget_s",
    "precision", "seed", "init_from", "bundle",
)  # fmt: skip
_MAX_ROWS = 24


def describe(
    stage: str,
    *,
    config: Mapping[str, Any],
    datasets: Sequence[str],
    results: Mapping[str, float],
    provenance: Mapping[str, str],
) -> str:
    """Describe a run in Markdown: its subject, results, data, settings, code and command."""
    parts = [f"**{stage}**{_subject(config)}."]
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
    """Format results as a Markdown table, with their intervals if there are any."""
    rows = "\n".join(f"| {key} | {_with_interval(key, results)} |" for key in without_ends(results))
    return f"| result | value |\n|---|---|\n{rows}"


def without_ends(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values without the bounds of confidence intervals, `NAME_low` and `NAME_high`."""
    return {
        key: value
        for key, value in values.items()
        if not (key.endswith(("_low", "_high")) and key.rpartition("_")[0] in values)
    }


def final_values(results: Mapping[str, float]) -> dict[str, float]:
    """Return the final results of a run under names without a slash, which MLflow draws as bars.

    `test/f1` becomes `test_f1`. Validation metrics have curves, so they are included only if there are no
    test metrics: the loss of the best weights becomes `best_val_loss`.
    """
    values = without_ends(results)
    tested = {result_name(key): value for key, value in values.items() if result_name(key) != key}
    return tested or {f"best_{key.replace('/', '_')}" if "/" in key else key: values[key] for key in values}


def result_name(key: str) -> str:
    """Return `test_f1` for `test/f1`, which has no curve, and any other name unchanged."""
    split, slash, name = key.partition("/")
    return f"test_{name}" if slash and split == "test" else key


def _with_interval(key: str, results: Mapping[str, float]) -> str:
    low, high = results.get(f"{key}_low"), results.get(f"{key}_high")
    interval = "" if low is None or high is None else f" (95 %: {_number(low)} to {_number(high)})"
    return _number(results[key]) + interval


def _subject(config: Mapping[str, Any]) -> str:
    """Return text such as ` of a Decoder for TextClassification on reviews.csv with Muon`."""
    model = _class(config, "model") or ""
    article = "an" if model.startswith(("A", "E", "I", "O", "U")) else "a"
    words = {f"of {article}": model, "for": _class(config, "task"), "on": _corpus(config)}
    words["with"] = _class(config, "optimizer")
    return "".join(f" {word} {what}" for word, what in words.items() if what)


def _class(config: Mapping[str, Any], group: str) -> str | None:
    """Return the name of the class that the configuration builds for a group."""
    flat = flatten(config)
    keys = [key for key in flat if key.startswith(f"{group}.") and key.endswith("._target_")]
    return flat[min(keys, key=lambda key: key.count("."))].rpartition(".")[2] if keys else None


def _corpus(config: Mapping[str, Any]) -> str | None:
    """Return the files of the corpus, or else its name or class."""
    data = config.get("data") or {}
    files = data.get("train") or data.get("path") or data.get("name")
    names = [str(file).rpartition("/")[2] for file in ([files] if isinstance(files, str) else files or [])]
    return ", ".join(names) or _class(config, "data")


def _settings(config: Mapping[str, Any]) -> str:
    flat = flatten(config, max_chars=80)
    rows: dict[str, str] = {}
    for name in _SETTINGS:
        for key, value in flat.items():
            # The numbers in `size` are repeated in the model, which is what was built.
            if key.rpartition(".")[2] == name and value != "null" and not key.startswith("size."):
                rows.setdefault(key, value.replace("|", "\\|"))
    return "\n".join(f"| {key} | {value} |" for key, value in list(rows.items())[:_MAX_ROWS])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"

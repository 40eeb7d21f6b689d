"""The gain from pretraining over the same training from scratch, or the command that measures it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.compose import compose_unchecked, keys_used
from pipeline.config.grammar import as_args, typed
from pipeline.config.plain import Config, select, to_plain
from pipeline.config.recorded import with_defaults
from pipeline.config.schema import NOTHING
from pipeline.errors import ConfigError
from pipeline.evaluation.rows import Evaluation
from pipeline.files import read_yaml
from pipeline.runs.bundle import Bundle, is_finished
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.runs.stored import read_part

STAGE = "finetune"
#: Two runs that agree in these keys differ only in their start.
SAME = ("task", "data", "trainer", "optimizer", "schedule", "freezing", "size", "model.backbone._target_")
#: Keys to leave out of the command: it sets them differently, the task determines them, or they do not affect
#: the metrics.
LEFT_OUT = (
    *("stage", "choices", "init_from", "name", "resume", "pipeline_id", "cache_dir", "tracking"),
    *("log_corpus_text", "peft", "model.head", "model.backbone.n_token_types"),
)


def gain_over_scratch(config: Config, run: RunFolder, bundle: Bundle, evaluation: Evaluation) -> str | None:
    """Compare the score with the newest run that differs only in starting from scratch."""
    for other in list_runs(run.path.parent):
        if other.name == run.name or not other.is_of(STAGE, config.choices.task):
            continue
        if is_finished(other.bundles / "best") and _differs_in_start(config, other):
            name = f"{evaluation.on.prefix}/{evaluation.task.metric}"
            before = _metrics(other).get(name)
            if before is None:
                continue
            gain = bundle.metrics[name] - before
            return f"{gain:+.4f} {evaluation.task.metric} (from scratch {before:.4f}, {other.name})"
    return None


def command_from_scratch(config: Config) -> str | None:
    """Return the command for the same training from scratch; None if it cannot be typed."""
    task, read = config.choices.task, set(keys_used(STAGE)) - {"task", "tracking", "peft"}
    begin = [f"task={task}", f"init_from={NOTHING}"]
    try:
        usual = compose_unchecked(STAGE, begin).choices
        words = [
            f"{group}={choice}"
            for group, choice in to_plain(config.choices).items()
            if group in read and choice not in (None, usual.get(group))
        ]
        composed = dict(_leaves(with_defaults(compose_unchecked(STAGE, [*begin, *words]))))
        target = dict(_leaves(with_defaults(config)))
        words += [
            f"{key}={typed(value)}"
            for key, value in target.items()
            if key not in composed or composed[key] != value
        ]
        found = compose_unchecked(STAGE, [*begin, *words])
    except ConfigError:  # a yaml file has changed since
        return None
    if not _is_comparable(with_defaults(config), with_defaults(found)):
        return None
    return " ".join([f"make {STAGE}-{task} INIT={NOTHING}", *([as_args(words)] if words else [])])


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each option that the command may have to set."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _differs_in_start(config: Config, other: RunFolder) -> bool:
    theirs = read_yaml(other.path / "config.yaml")
    return theirs.get("init_from") == NOTHING and _is_comparable(with_defaults(config), theirs)


def _is_comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return all(select(ours, key) == select(theirs, key) for key in SAME)


def _metrics(run: RunFolder) -> Mapping[str, float]:
    return read_part(run.bundles / "best", "metrics.json")

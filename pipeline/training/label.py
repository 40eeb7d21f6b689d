"""The default name of a training run."""

import re
from pathlib import Path

from pipeline.config.compose import compose_unchecked
from pipeline.config.plain import Config
from pipeline.config.schema import BUNDLE_KEYS, NOTHING

#: The groups whose choice is part of a run's name, most important first.
GROUPS = ("data", "experiment", "model", "size", "position", "tokenizer", "optimizer", "schedule", "peft")
#: The most characters of a corpus in the name of a run; MLflow's list shows about twenty characters of the
#: name.
LONGEST_WORD = 16


def label_of(config: Config) -> str:
    """Return the task, followed by the choices that differ from the task's defaults."""
    usual = compose_unchecked(config.stage.name, [f"task={config.choices.task}"]).choices
    words = [config.choices.task]
    from_scratch = config.init_from in (None, NOTHING)
    for group in GROUPS if from_scratch else [group for group in GROUPS if group not in BUNDLE_KEYS]:
        choice = config.choices.get(group)
        if choice is not None and choice != usual.get(group):
            words.append(_corpus_word(config) if group == "data" else choice)
    return "-".join(words)


def _corpus_word(config: Config) -> str:
    """Return the name of the corpus, or that of its first file."""
    files = config.data.get("train")
    first = str(files[0] if isinstance(files, list | tuple) else files or config.choices.data)
    name = str(config.data.get("name") or Path(first).name.split(".")[0] or config.choices.data)
    return re.sub(r"\W+", "_", name)[:LONGEST_WORD].strip("_") or str(config.choices.data)

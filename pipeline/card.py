"""Model cards of bundles, exports and MLflow models: Markdown with the YAML header that model hubs read.

Text that comes from files, such as names of corpora and labels, is escaped. A card contains no corpus text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.plain import select
from pipeline.files import read_json
from pipeline.runs.stored import Task, read_part, read_task, refused
from pipeline.tasks.base import GAP
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tracking.describe import without_ends

#: The longest description that MLflow stores, in characters.
MLFLOW_CHARACTERS = 5000
_VERSIONS = ("torch", "lightning", "tokenizers")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
#: Prefixes of metrics that are listed apart from those of the task.
_SAFETY = ("privacy/", "safety/")
#: The most sources that are listed; for the rest, only their number is given.
_MOST_SOURCES = 20


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The facts that a card is made from: the parts of a bundle, as plain values.

    Args:
        provenance, metrics, config, task, model: the contents of the bundle's files.
        made_for: the task as an object; its example row and its name on model hubs are shown.
    """

    provenance: Mapping[str, Any]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    made_for: Task

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.provenance.get("run", "a model"))

    @property
    def hub_task(self) -> str | None:
        """Name of the task on model hubs, such as `text-classification`."""
        return self.made_for.hub_task

    @property
    def has_head(self) -> bool:
        """Whether the model has a head; an imported model without one cannot predict or generate."""
        return _class(self.model, "head._target_") != "NoHead"

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """Facts about the model that it was imported from."""
        return self.provenance.get("imported")

    @property
    def word(self) -> str:
        """Name of the task, as a user types it."""
        return str(select(self.config, "choices.task") or "")


def folder_facts(folder: Path) -> CardFacts:
    """Read the facts from the files of a bundle.

    Raises:
        BundleError: if one of them cannot be read.
    """
    parts = {name: read_part(folder, f"{name}.json") for name in ("provenance", "metrics", "task")}
    with refused(folder / "model.json"):
        model = dict(read_json(folder / "model.json"))
    return CardFacts(
        **parts, model=model, config=read_part(folder, "config.yaml"), made_for=read_task(folder)
    )


def model_card(facts: CardFacts, *, use: str | None = None, about: str = "", library: str = "prelude") -> str:
    """Return the whole card, with its header.

    Args:
        facts: the facts of the bundle.
        use: the section on how to use the model, in Markdown; None: how to use the bundle.
        about: a sentence to add to the description.
        library: the name of the library that loads the model, for the header.
    """
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{_head(facts, library)}\n---\n\n{card_body(facts, use=use, about=about)}"))


def card_body(facts: CardFacts, *, use: str | None = None, about: str = "", most: int | None = None) -> str:
    """Return the card without its header; last sections are left out to keep it within `most` characters."""
    sections = {
        "Use": _use(facts) if use is None else use,
        "Metrics": _metrics(facts),
        "Safety and privacy": _safety(facts),
        "Limits": _limits(facts),
        "Data": _data(facts),
        "Training": _training(facts),
        "Lineage": _lineage(facts),
    }
    text = f"# {escaped(facts.name)}\n\n{_what(facts)}{f' {about}' if about else ''}\n"
    for title, section in sections.items():
        part = f"\n## {title}\n\n{section}\n"
        if section and (most is None or len(text) + len(part) <= most):
            text += part
    return text if most is None else text[:most]


def escaped(text: object) -> str:
    """Escape text so that Markdown shows it literally, on one line."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _head(facts: CardFacts, library: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    on = facts.provenance.get("measured_on") or {}
    corpus = str(on.get("corpus") or select(facts.provenance, "corpus.name") or "unknown")
    results = [
        EvalResult(
            task_type=facts.hub_task or "other",
            dataset_type=corpus,
            dataset_name=corpus,
            dataset_split="validation" if name.startswith("val/") else on.get("split"),
            metric_type=name.rpartition("/")[2],
            metric_name=name,
            metric_value=value,
        )
        for name, value in without_ends(facts.metrics).items()
    ]
    data = ModelCardData(
        library_name=library,
        pipeline_tag=facts.hub_task,
        tags=["prelude", *([facts.word] if facts.word else [])],
        model_name=facts.name,
        license=(facts.imported or {}).get("licence"),
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _class(node: Mapping[str, Any], key: str = "_target_") -> str:
    return str(select(node, key) or "unknown").rpartition(".")[2]


def _what(facts: CardFacts) -> str:
    number = select(facts.provenance, "cost.parameters")
    size = "" if number is None else f" of {number:,} parameters"
    kind = f"`{_class(facts.model, 'backbone._target_')}`{size}"
    labels = facts.task.get("label_names") or []
    classes = f" Its {len(labels):,} classes: {', '.join(map(escaped, labels[:30]))}." if labels else ""
    if facts.imported is None:
        return f"A transformer ({kind}), made with Prelude for `{_class(facts.task)}`.{classes}"
    head = "" if facts.has_head else " It has no head and must be fine-tuned before it can make predictions."
    source, architecture = (escaped(facts.imported.get(key, "unknown")) for key in ("from", "model_type"))
    return f"A transformer ({kind}), imported from {source} ({architecture}).{head}"


def _use(facts: CardFacts) -> str:
    """Return commands and Python code that work when pasted; the bundle is named by its run."""
    name, task = re.sub(r"[^\w.@-]", "_", facts.name), facts.made_for
    start = f'from pipeline import load_bundle\n\nbundle = load_bundle("{name}")'
    serve = f"make serve BUNDLE={name}\ncurl http://127.0.0.1:8000/v1/"
    note = ""
    if not facts.has_head:
        commands, python = (
            f"make finetune-classify INIT={name}",
            "network = bundle.model  # a torch.nn.Module",
        )
    elif isinstance(task, FinetuneTask):
        commands = f"make predict-{facts.word} BUNDLE={name} INPUT=rows.jsonl\n"
        commands += f"make explain BUNDLE={name} INPUT=rows.jsonl\n{serve}models"
        python = f"row = {dict(task.example_row)!r}\nprint(bundle.predict([row])[0].text)"
        note = "The last command prints the model's URL, and an example of a row for it.\n\n"
    else:
        prompt = f"The {GAP} is in the garden." if task.fills_gaps else "One sunny morning"
        commands, python = (
            f'make generate BUNDLE={name} PROMPT="{prompt}"',
            f'print(bundle.generate("{prompt}"))',
        )
        if not task.fills_gaps:
            body = f'{{"model": "{name}", "prompt": "{prompt}"}}'
            commands += f"\n{serve}completions -H 'Content-Type: application/json' -d '{body}'"
    return f"```\n{commands}\n```\n\n{note}```python\n{start}\n{python}\n```"


def _metrics(facts: CardFacts) -> str:
    own = {name: value for name, value in facts.metrics.items() if not name.startswith(_SAFETY)}
    if not own:
        return "No metrics were measured."
    on, notes = facts.provenance.get("measured_on") or {}, facts.provenance.get("notes") or {}
    lines = []
    for name, value in sorted(without_ends(own).items()):
        note = escaped(notes.get(name.rpartition("/")[2], ""))
        lines.append(f"| {escaped(name)} | {value:.4g} | {_interval(name, own)} | {note} |")
    table = "\n".join(["| metric | value | 95 % interval | note |", "|---|---|---|---|", *lines])
    if not on:
        return table
    chose = ", which were also used to select the weights" if on.get("chose_weights") else ""
    rows = f"{on.get('rows', 0):,} {escaped(on.get('split'))} rows of {escaped(on.get('corpus'))}"
    return f"{table}\n\nMeasured on {rows}{chose}."


def _interval(name: str, metrics: Mapping[str, float]) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _safety(facts: CardFacts) -> str:
    found = {name: value for name, value in facts.metrics.items() if name.startswith(_SAFETY)}
    return "\n".join(f"- {escaped(name)}: {value:.4g}" for name, value in sorted(found.items()))


def _limits(facts: CardFacts) -> str:
    lines = [f"It reads at most {select(facts.model, 'backbone.max_seq_len')} tokens at once."]
    if (facts.provenance.get("measured_on") or {}).get("chose_weights"):
        lines.append(
            "Its weights were selected on the rows it was measured on, so its metrics are optimistic."
        )
    for pair, number in (select(facts.provenance, "corpus.repeated") or {}).items():
        lines.append(
            f"{number:,} rows are in two splits ({escaped(pair)}), so metrics are better than on new rows."
        )
    lines += [escaped(one) for one in facts.provenance.get("cautions") or []]
    if not any(name.startswith("safety/") for name in facts.metrics):
        lines.append("Its outputs have not been examined for bias or harm.")
    if not any(name.startswith("privacy/") for name in facts.metrics):
        lines.append("Memorization of its training texts has not been measured.")
    return "\n".join(f"- {line}" for line in lines)


def _data(facts: CardFacts) -> str:
    if facts.imported is not None:
        licence = facts.imported.get("licence")
        said = f"{escaped(licence)}, according to its README.md" if licence else "not stated in the files"
        commit = f" Commit {escaped(facts.imported['commit'])}." if "commit" in facts.imported else ""
        told = f"Its training data is known only to its authors.{commit} Licence of the source: {said}."
        return "\n".join([told, "", *_sources(facts.imported.get("sources") or [])]).rstrip()
    corpus = facts.provenance.get("corpus") or {}
    name, digest = escaped(corpus.get("name", "unknown")), escaped(corpus.get("fingerprint", "unknown"))
    table = _sources(corpus.get("sources") or [])
    return "\n".join([f"Corpus {name}, fingerprint `{digest}`.", "", *table]).rstrip()


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of files, and the number of those left out, as lines of Markdown."""
    lines = [
        f"| {escaped(one.get('split', ''))} | {escaped(one.get('uri', ''))} "
        f"| {escaped(one.get('sha256', ''))[:16]} | {one.get('n_bytes', 0):,} |"
        for one in sources[:_MOST_SOURCES]
    ]
    table = ["| split | source | sha256 | bytes |", "|---|---|---|---|", *lines] if lines else []
    more = [f"\nAnd {len(sources) - _MOST_SOURCES:,} more."] if len(sources) > _MOST_SOURCES else []
    return [*table, *more]


def _training(facts: CardFacts) -> str:
    if facts.imported is not None:
        return "It was imported, not trained with Prelude."
    cost, code = facts.provenance.get("cost") or {}, facts.provenance.get("code") or {}
    versions = ", ".join(f"{name} {code[name]}" for name in _VERSIONS if name in code)
    told = {
        "time": f"{cost['seconds']:,.0f} s" if "seconds" in cost else None,
        "tokens read": f"{cost['tokens']:,}" if "tokens" in cost else None,
        "step of these weights": facts.provenance.get("step"),
        "processor": code.get("cpu"),
        "GPU": code.get("gpu"),
        "seed": facts.provenance.get("seed"),
        "versions": versions or None,
    }
    return "\n".join(f"- {name}: {escaped(fact)}" for name, fact in told.items() if fact is not None)


def _lineage(facts: CardFacts) -> str:
    code, parent = facts.provenance.get("code") or {}, facts.provenance.get("parent") or {}
    told = {
        "run": facts.provenance.get("run"),
        "commit": code.get("git_commit"),
        "tokenizer": str(facts.provenance.get("tokenizer") or "")[:16] or None,
        "started from": parent.get("run"),
        "sha256 of what it started from": str(parent.get("digest") or "")[:16] or None,
    }
    lines = "\n".join(f"- {name}: {escaped(fact)}" for name, fact in told.items() if fact is not None)
    return f"{lines}\n\n`make lineage` traces each of these back to its files."

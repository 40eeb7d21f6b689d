"""The card of a model, in Markdown with a YAML head as hubs read it: for bundles, exports and MLflow.

What comes from files, such as names of corpora and labels, is escaped; no text of a corpus stands in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.plain import select
from pipeline.files import read_json
from pipeline.runs.stored import read_part, refused, task_class
from pipeline.tracking.describe import without_ends

#: MLflow keeps this many characters of a description.
MLFLOW_CHARACTERS = 5000
_VERSIONS = ("torch", "lightning", "tokenizers")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
#: Metrics that are told apart from those of the task.
_SAFETY = ("privacy/", "safety/")
#: Sources that are listed; of more their number is said.
_MOST_SOURCES = 20


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is made from: the parts of a bundle, as plain values.

    Args:
        provenance, metrics, config, task, model: the files of a bundle.
        hub_task: the task by the word of model hubs, such as `text-classification`.
    """

    provenance: Mapping[str, Any]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    hub_task: str | None = None

    @property
    def name(self) -> str:
        """That of the run."""
        return str(self.provenance.get("run", "a model"))

    @property
    def word(self) -> str:
        """The task, as a user types it."""
        return str(select(self.config, "choices.task") or "")


def folder_facts(folder: Path) -> CardFacts:
    """What the files of a bundle tell.

    Raises:
        BundleError: one of them cannot be read.
    """
    parts = {name: read_part(folder, f"{name}.json") for name in ("provenance", "metrics", "task")}
    with refused(folder / "model.json"):
        model = dict(read_json(folder / "model.json"))
    return CardFacts(
        **parts, model=model, config=read_part(folder, "config.yaml"), hub_task=task_class(folder).hub_task
    )


def model_card(facts: CardFacts, *, use: str | None = None, about: str = "", library: str = "prelude") -> str:
    """The whole card.

    Args:
        facts: of the bundle.
        use: how to use what the card lies beside, in Markdown; None: how to use the bundle.
        about: a sentence on what it is, beside what the facts say.
        library: that loads it, for the head.
    """
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{_head(facts, library)}\n---\n\n{card_body(facts, use=use, about=about)}"))


def card_body(facts: CardFacts, *, use: str | None = None, about: str = "", most: int | None = None) -> str:
    """The card without its head; with `most` characters at most, by leaving out its last sections."""
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
    """Text of a file as Markdown that shows it as it is, on one line."""
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
    return f"A transformer ({kind}), made with Prelude for `{_class(facts.task)}`.{classes}"


def _use(facts: CardFacts) -> str:
    name = re.sub(r"[^\w.@-]", "_", facts.name)
    if facts.provenance.get("stage") != "finetune":
        python = 'print(bundle.generate("One sunny morning"))'
        command = f"make generate BUNDLE={name}"
        curl = "http://127.0.0.1:8000/v1/completions", f'{{"model": "{name}", "prompt": "One"}}'
    else:
        python, command = (
            "print(bundle.predict([row]))  # a row names its columns",
            f"make predict-{facts.word} BUNDLE={name} INPUT=rows.jsonl",
        )
        curl = "http://127.0.0.1:8000/v1/models", ""
    data = f" -H 'Content-Type: application/json' -d '{curl[1]}'" if curl[1] else ""
    note = "" if data else "\n\nThe last one names the model's address, and a row that it answers."
    return (
        f"```\n{command}\nmake explain BUNDLE={name} INPUT=rows.jsonl\nmake serve BUNDLE={name}\n"
        f"curl {curl[0]}{data}\n```\n\n```python\nfrom pipeline import load_bundle\n\n"
        f'bundle = load_bundle("{name}")\n{python}\n```{note}'
    )


def _metrics(facts: CardFacts) -> str:
    own = {name: value for name, value in facts.metrics.items() if not name.startswith(_SAFETY)}
    if not own:
        return "None were measured."
    on, notes = facts.provenance.get("measured_on") or {}, facts.provenance.get("notes") or {}
    lines = []
    for name, value in sorted(without_ends(own).items()):
        note = escaped(notes.get(name.rpartition("/")[2], ""))
        lines.append(f"| {escaped(name)} | {value:.4g} | {_interval(name, own)} | {note} |")
    table = "\n".join(["| metric | value | 95 % interval | note |", "|---|---|---|---|", *lines])
    if not on:
        return table
    chose = ", which also chose the weights" if on.get("chose_weights") else ""
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
        lines.append("The rows that it was measured on chose its weights too, so its numbers are too good.")
    for pair, number in (select(facts.provenance, "corpus.repeated") or {}).items():
        lines.append(
            f"{number:,} rows are in two splits ({escaped(pair)}): numbers are better than on new rows."
        )
    lines += [escaped(one) for one in facts.provenance.get("cautions") or []]
    if not any(name.startswith("safety/") for name in facts.metrics):
        lines.append("What it answers was not examined for bias or harm.")
    if not any(name.startswith("privacy/") for name in facts.metrics):
        lines.append("Whether it gives away texts that it was trained on was not measured.")
    return "\n".join(f"- {line}" for line in lines)


def _data(facts: CardFacts) -> str:
    corpus = facts.provenance.get("corpus") or {}
    sources = corpus.get("sources") or []
    lines = [
        f"| {escaped(one.get('split', ''))} | {escaped(one.get('uri', ''))} "
        f"| {escaped(one.get('sha256', ''))[:16]} | {one.get('n_bytes', 0):,} |"
        for one in sources[:_MOST_SOURCES]
    ]
    table = ["| split | source | sha256 | bytes |", "|---|---|---|---|", *lines] if lines else []
    more = [f"\n{len(sources) - _MOST_SOURCES:,} more."] if len(sources) > _MOST_SOURCES else []
    name, digest = escaped(corpus.get("name", "unknown")), escaped(corpus.get("fingerprint", "unknown"))
    return "\n".join([f"Corpus {name}, fingerprint `{digest}`.", "", *table, *more]).rstrip()


def _training(facts: CardFacts) -> str:
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
    return f"{lines}\n\n`make lineage` follows each of these back to its bytes."

"""The card of a model that is handed on: what it is, what it was made of, what it scored, how to use it."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from pipeline.runs.bundle import Bundle

_VERSIONS = ("torch", "lightning", "tokenizers")

#: The class that loads an architecture, by how the architecture's name ends.
_USE = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
}


def model_card(bundle: Bundle, architecture: str) -> str:
    """Markdown with a YAML head, as model hubs read it."""
    provenance = bundle.provenance
    corpus = provenance.get("corpus", {})
    auto = next(name for ending, name in _USE.items() if architecture.endswith(ending))
    data = ModelCardData(library_name="transformers", tags=["prelude", type(bundle.task).__name__])
    text = f"""---
{data.to_yaml()}
---

# {provenance["run"]}

A `{architecture}` trained with Prelude ({type(bundle.task).__name__}). Its logits equal the original's.

```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {auto}.from_pretrained("FOLDER")
```

## Data

Corpus `{corpus.get("name", "unknown")}`, fingerprint `{corpus.get("fingerprint", "unknown")}`.

| split | source | sha256 | bytes |
|---|---|---|---|
{_sources(corpus)}

## Metrics

| metric | value |
|---|---|
{_metrics(bundle.metrics)}

## Training

{_origin(provenance)}
"""
    return str(ModelCard(text))


def _sources(corpus: Mapping[str, Any]) -> str:
    return "\n".join(
        f"| {source.get('split', '')} | `{source['uri']}` | `{source['sha256'][:16]}` "
        f"| {source['n_bytes']:,} |"
        for source in corpus.get("sources", [])
    )


def _metrics(metrics: Mapping[str, float]) -> str:
    return "\n".join(f"| `{name}` | {value:.4f} |" for name, value in sorted(metrics.items()))


def _origin(provenance: Mapping[str, Any]) -> str:
    code = provenance.get("code", {})
    facts = {
        "seed": provenance.get("seed"),
        "step": provenance.get("step"),
        "commit": code.get("git_commit"),
        "versions": json.dumps({name: code[name] for name in _VERSIONS if name in code}),
        "started from": (provenance.get("parent") or {}).get("run"),
    }
    return "\n".join(f"- {name}: `{fact}`" for name, fact in facts.items() if fact is not None)

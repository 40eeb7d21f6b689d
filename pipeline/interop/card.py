"""The card of an exported model: the card of its bundle, and how `transformers` loads it."""

from pipeline.card import CardFacts, model_card
from pipeline.runs.bundle import Bundle

#: The class that loads an architecture, by the ending of the architecture's name.
_USE = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
}


def exported_card(bundle: Bundle, architecture: str) -> str:
    """Return a model card in Markdown with YAML metadata, as model hubs expect it."""
    auto = next(name for ending, name in _USE.items() if architecture.endswith(ending))
    use = f"""```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {auto}.from_pretrained("FOLDER")
```"""
    about = f"This folder contains it as a `{architecture}`, whose logits equal the original's."
    facts = CardFacts(
        provenance=bundle.provenance,
        metrics=bundle.metrics,
        config=bundle.config,
        task=bundle.task_config,
        model=bundle.model_config,
        made_for=bundle.task,
    )
    return model_card(facts, use=use, about=about, library="transformers")

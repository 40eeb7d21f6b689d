"""Describe a model to the page: its input columns, examples, and how its predictions are displayed."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from datamodules.corpus import TEXT_ONLY
from datamodules.storyworld.language import CODES
from datamodules.storyworld.world import StoryWorld
from pipeline.runs.finetuned import as_dialogue
from pipeline.serving.served import ServedModel
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.finetuning import FinetuneTask, Row

#: The number of examples per language, and of rows that are searched for them.
_N_EXAMPLES, _N_ROWS = 2, 60
#: The endpoints that stream text: for models that continue a text, and for those that reply.
_STREAMS = {"continuation": "/v1/completions", "dialogue": "/v1/chat/completions"}
#: The example for a language model.
BEGINNING = "One sunny morning"

Example = dict[str, Any]


def describe(model: ServedModel) -> dict[str, Any]:
    """Return what the page needs to know about a model, as JSON values."""
    task, word = as_dialogue(model.bundle).task, str(model.bundle.config["choices"]["task"])
    return {
        "model": model.name,
        "version": model.version,
        "bundle": model.digest,
        "title": task.showing.title or {"en": word},
        "about": task.showing.about,
        "form": task.showing.form,
        "endpoint": _STREAMS.get(task.showing.form, f"/v1/{model.endpoint}"),
        "most_tokens": model.limit,
        "fields": _fields(task),
        "examples": _examples(model),
    }


def _fields(task: FinetuneTask | CausalLM) -> list[dict[str, Any]]:
    read = task.input_columns if isinstance(task, FinetuneTask) else TEXT_ONLY
    types: Mapping[str, Any] = task.input_types if isinstance(task, FinetuneTask) else {}
    languages = task.input_languages if isinstance(task, FinetuneTask) else {}
    return [
        {
            "name": name,
            "title": task.showing.columns.get(name, {"en": name}),
            "kind": "turns" if _is_dialogue(task, name) else _kind(types.get(name, str)),
            "languages": list(languages.get(name, ())),
            "required": name in read.required or name in languages,
        }
        for name in (*read.required, *read.optional)
    ]


def _is_dialogue(task: FinetuneTask | CausalLM, name: str) -> bool:
    return task.showing.form == "dialogue" and isinstance(task, FinetuneTask) and name in task.inputs


def _kind(kind: Any) -> Literal["text", "json"]:
    """Return whether a column takes a plain text; otherwise its value is entered as JSON."""
    try:
        TypeAdapter(kind).validate_python("a text", strict=True)
    except ValidationError:
        return "json"
    return "text"


def _examples(model: ServedModel) -> list[Example]:
    """Return story-world rows that no training has used, in the languages of the model's corpus.

    A model of another corpus, or of none that is known here, gets one plain example.
    """
    task = as_dialogue(model.bundle).task
    if task.showing.view is None or not _is_of_story_world(model.bundle.config):
        row = task.example_row if isinstance(task, FinetuneTask) else {"text": BEGINNING}
        return [{"language": None, "row": dict(row)}]
    by_language: dict[str, list[Example]] = {}
    for row in islice(_rows(task.showing.view, model.bundle.config), _N_ROWS):
        language = row.get("target_language", row.get("language"))
        some = by_language.setdefault(str(language), [])
        if len(some) < _N_EXAMPLES:
            some.append({"language": row.get("language"), "row": dict(task.shown_input(row))})
    return [example for language in sorted(by_language, key=_place) for example in by_language[language]]


def _place(language: str) -> int:
    return [*CODES, language].index(language)


def _is_of_story_world(config: Mapping[str, Any]) -> bool:
    data = config.get("data") or {}
    return str(data.get("_target_")).endswith(".StoryWorld")


def _rows(view: str, config: Mapping[str, Any]) -> Iterator[Row]:
    languages = config["data"].get("languages")
    known: Any = {code: share for code, share in (languages or {}).items() if code in CODES}
    return StoryWorld(view=view, n_test_rows=_N_ROWS, languages=known or None).rows("test")

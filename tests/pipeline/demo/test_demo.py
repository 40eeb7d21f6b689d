"""What the page of `make demo` is told, and what it may ask."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from modules.generation import SamplingOptions
from pipeline.config.tasks import finetuning_tasks
from pipeline.demo.choosing import newest_of_each_task
from pipeline.demo.describing import describe
from pipeline.demo.routes import add_page
from pipeline.errors import BundleError
from pipeline.explain.explanation import explain_row
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.chat import Dialogue
from tests.pipeline.interop.test_tokenizer_files import chatml
from tests.pipeline.made_bundles import finish, make_bundle, write
from tests.pipeline.serving.models import TASKS, Running, served, serving

QUESTION = {"context": "Frieda has a red lantern.", "question": "What does Frieda have?"}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving([served(name) for name in TASKS]) as server:
        add_page(server.server)
        yield server


def post(running: Running, path: str, body: Any) -> requests.Response:
    return requests.post(f"{running.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize("kind", [*finetuning_tasks().values(), CausalLM])
def test_a_task_says_in_both_languages_what_it_is_and_how_its_columns_are_called(kind: Any) -> None:
    showing = kind.showing
    columns = (*kind.inputs, *kind.optional) if kind is not CausalLM else ("text",)
    for texts in (showing.title, showing.about, *(showing.columns[name] for name in columns)):
        assert {*texts} == {"en", "zh"}
        assert all(texts.values())


def test_each_example_is_a_row_of_the_story_world_that_its_model_answers(running: Running) -> None:
    models = requests.get(f"{running.url}/demo/models", timeout=60).json()["models"]
    assert [model["model"] for model in models] == [*TASKS]
    for model in models:
        fields = {field["name"]: field for field in model["fields"]}
        assert len(model["examples"]) >= 4, model["model"]
        for example in model["examples"]:
            row = example["row"]
            assert {*row} == {*fields}
            assert all(
                row[name] in field["languages"] for name, field in fields.items() if field["languages"]
            )
        row = model["examples"][0]["row"]
        if model["form"] == "continuation":
            row = {"prompt": row["text"][:40], "max_tokens": 4}
        if model["form"] == "dialogue":
            row = {"messages": [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]}
        done = post(running, model["endpoint"], {**row, "model": model["model"]})
        assert done.status_code == 200, done.text


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("data", [{}, {"data": {"_target_": "datamodules.corpus.Files"}}])
def test_a_model_of_another_corpus_gets_one_example_that_is_no_story(name: str, data: dict[str, Any]) -> None:
    model = served(name)
    config = {"choices": {"task": name}, **data}
    (example,) = describe(replace(model, bundle=replace(model.bundle, config=config)))["examples"]
    assert example["language"] is None
    assert {*example["row"]} == {field["name"] for field in describe(model)["fields"]}


@pytest.mark.parametrize(
    ("name", "row", "sampling"),
    [
        ("qa", QUESTION, None),
        ("chat", {"turns": [{"role": "user", "text": "Where is it?"}]}, None),
        ("causal_lm", {"text": "One day"}, SamplingOptions(temperature=0.8, max_new_tokens=9, seed=5)),
    ],
)
def test_the_explanation_of_an_answer_is_that_of_make_explain(
    running: Running, name: str, row: dict[str, Any], sampling: SamplingOptions | None
) -> None:
    body = {**row, "model": name}
    if sampling is not None:
        body = {"prompt": row["text"], "model": name, "max_tokens": 9, "temperature": 0.8, "seed": 5}
    model = served(name)
    task, bundle = model.task, model.bundle
    alone = explain_row(
        task, bundle.model, bundle.tokenizer, row, sampling=sampling, most_steps=256, attention=False
    )
    found = post(running, "/demo/explain", body).json()
    assert found["answer"] == alone.answer
    assert [token["text"] for token in found["written"]] == [token.text for token in alone.written]
    words = [word["attribution"] for one in found["decisions"] for word in one["words"]]
    assert words == pytest.approx(
        [word.attribution for one in alone.decisions for word in one.words], abs=1e-4
    )
    if sampling is not None:  # what is explained is what was written
        assert found["answer"] == post(running, "/v1/completions", body).json()["choices"][0]["text"]


def test_an_imported_model_with_chatml_is_shown_and_explained_as_one_that_replies() -> None:
    model = served("causal_lm", tokenizer=chatml(has_start=False))
    shown = describe(model)
    assert (shown["form"], shown["endpoint"]) == ("dialogue", "/v1/chat/completions")
    row = shown["examples"][0]["row"]
    with serving([model]) as running:
        add_page(running.server)
        found = post(running, "/demo/explain", {**row, "model": "causal_lm"}).json()
    bundle = model.bundle
    (reply,) = Dialogue().predict(bundle.model, bundle.tokenizer, [row], batch_size=1)
    assert found["answer"] == reply.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({"text": "a"}, "model"),
        ({"text": "a", "model": "another"}, "model"),
        ({"context": "a", "model": "qa"}, "question"),
        ({"prompt": "a", "model": "causal_lm", "temperature": -1}, "temperature"),
        ({"prompt": "a" * 200, "model": "causal_lm"}, "prompt"),
        ({"source": "a", "target_language": "fr", "model": "translate"}, "target_language"),
    ],
)
def test_what_cannot_be_explained_is_refused_by_the_name_of_its_field(
    running: Running, body: Any, field: str
) -> None:
    done = post(running, "/demo/explain", body)
    assert (done.status_code, done.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("path", ["/", "/main.js", "/words.js", "/style.css", "/demo.css", "/icon.svg"])
def test_the_page_may_load_and_ask_its_own_server_alone(running: Running, path: str) -> None:
    done = requests.get(f"{running.url}{path}", timeout=60)
    assert done.status_code == 200
    policy = done.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in done.text.replace("http://www.w3.org/2000/svg", "")


def test_the_page_is_open_and_asks_for_the_token_that_its_requests_need() -> None:
    with serving([served("classify")], token="secret") as running:
        add_page(running.server)
        for path in ("/", "/main.js", "/style.css", "/health"):
            assert requests.get(f"{running.url}{path}", timeout=60).status_code == 200
        for path in ("/demo/models", "/v1/models", "/openapi.json", "/metrics", "/main.js/../demo/models"):
            assert requests.get(f"{running.url}{path}", timeout=60).status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert requests.get(f"{running.url}/demo/models", headers=right, timeout=60).status_code == 200


def test_the_newest_bundle_of_each_task_that_can_be_asked_is_shown(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no finished bundle"):
        newest_of_each_task(tmp_path)
    old, new = (make_bundle(tmp_path / name) for name in ("old", "new"))
    record = (new.parent.parent / "run.json").read_text()
    (new.parent.parent / "run.json").write_text(record.replace("2026-01-01", "2026-01-02"))
    gaps = make_bundle(tmp_path / "gaps")
    record = (gaps.parent.parent / "run.json").read_text()
    (gaps.parent.parent / "run.json").write_text(record.replace('"classify"', '"masked_lm"'))
    write(gaps / "task.json", {"_target_": "pipeline.tasks.masked_lm.MaskedLM"})
    finish(gaps)
    assert newest_of_each_task(tmp_path) == [str(new)] != [str(old)]

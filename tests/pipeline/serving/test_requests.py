"""What the server answers, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.pipeline.serving.models import LIMIT, TASKS, Running, served, serving

ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [{"text": "a story"}, {"text": "another story, and a longer one"}],
    "qa": [{"context": "Frieda has a lantern.", "question": "What does Frieda have?"}],
    "translate": [{"source": "the lantern", "target_language": "de"}],
    "chat": [{"turns": [{"role": "user", "text": "Where is it?"}]}],
}
ENDPOINTS = {"classify": "classify", "qa": "answer", "translate": "translate", "chat": "chat"}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving([served(name) for name in TASKS], max_rows=20, max_body_bytes=5000) as server:
        yield server


def post(running: Running, path: str, body: Any, **more: Any) -> requests.Response:
    return requests.post(f"{running.url}{path}", json=body, timeout=30, **more)


@pytest.mark.parametrize("task", ROWS)
def test_rows_are_answered_as_predict_answers_them_and_say_whose_answer_it_is(
    running: Running, task: str
) -> None:
    model = served(task)
    (alone,) = model.task.predict(model.bundle.model, model.bundle.tokenizer, ROWS[task][:1], batch_size=1)
    done = post(running, f"/v1/{ENDPOINTS[task]}", ROWS[task][0])
    assert done.status_code == 200
    (answer,) = done.json()["predictions"]
    assert (done.json()["model"], answer["text"]) == (task, alone.text)
    assert answer["confidence"] == pytest.approx(alone.confidence, abs=1e-5)
    assert {*answer} == {"text", "confidence", *alone.details}
    assert (done.headers["X-Prelude-Model"], done.headers["X-Prelude-Bundle"]) == (task, "0" * 64)
    many = post(running, f"/v1/{ENDPOINTS[task]}", {"rows": ROWS[task] * 3, "model": task}).json()
    assert len(many["predictions"]) == 3 * len(ROWS[task])
    assert many["predictions"][0]["text"] == alone.text


def test_the_models_that_are_served_are_listed_with_a_row_that_each_of_them_answers(running: Running) -> None:
    models = requests.get(f"{running.url}/v1/models", timeout=30).json()["data"]
    assert [model["id"] for model in models] == list(TASKS)
    for model in models:
        if model["endpoint"]:
            assert post(running, model["endpoint"], model["example"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("classify", {"text": 5}, "text"),
        ("classify", {"text": " \n"}, "text"),
        ("classify", {"text": ""}, "text"),
        ("classify", {}, "text"),
        ("classify", {"text": "a", "colour": "red"}, "colour"),
        ("classify", {"text": "a", "model": "another"}, "model"),
        ("classify", {"text": "a", "model": "qa"}, "model"),
        ("classify", {"rows": [{"text": "a"}, {"text": None}]}, "rows.1.text"),
        ("classify", {"rows": [{"text": "a"}] * 21}, "rows"),
        ("classify", {"rows": []}, "rows"),
        ("classify", [], "body"),
        ("answer", {"context": "a"}, "question"),
        ("translate", {"source": "a", "target_language": "fr"}, "target_language"),
        (
            "translate",
            {"rows": [{"source": "a", "target_language": "de"}, {"source": "a"}]},
            "rows.1.target_language",
        ),
        ("chat", {"turns": [{"role": "nobody", "text": "a"}]}, "turns.0.role"),
        ("chat", {"turns": []}, "turns"),
        ("completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("completions", {"prompt": "a", "top_p": 0}, "top_p"),
        ("completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": LIMIT + 1}, "max_tokens"),
        ("completions", {"prompt": "a" * LIMIT}, "prompt"),
        ("completions", {"prompt": ["a"] * 100}, "prompt"),
        ("completions", {"prompt": "a", "stop": ["b"] * 100}, "stop"),
        ("completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("completions", {"prompt": "a", "model": "chat"}, "model"),
        ("completions", {"prompt": "a", "stream": "yes"}, "stream"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ("chat/completions", {"messages": []}, "messages"),
    ],
)
def test_a_malformed_request_is_answered_400_with_the_name_of_the_field(
    running: Running, path: str, body: Any, field: str
) -> None:
    done = post(running, f"/v1/{path}", body)
    error = done.json()["error"]
    assert (done.status_code, error["param"]) == (400, field), error


@pytest.mark.parametrize(
    "body",
    [b'{"text": "\xff"}', b'{"text": "\\ud800"}', b'{"text": ', b"[" * 4000, b'{"text": NaN}', b""],
    ids=["no UTF-8", "unpaired surrogate", "half of JSON", "deep", "NaN", "nothing"],
)
def test_bytes_that_are_no_text_are_refused_too(running: Running, body: bytes) -> None:
    done = requests.post(
        f"{running.url}/v1/classify", body, headers={"Content-Type": "application/json"}, timeout=30
    )
    assert done.status_code == 400
    assert "error" in done.json()


def test_of_a_value_of_several_types_the_right_type_s_error_is_given(running: Running) -> None:
    said = post(running, "/v1/completions", {"prompt": "a", "stop": ["b"] * 100}).json()["error"]["message"]
    assert said == "stop: List should have at most 4 items, not 100"
    said = post(running, "/v1/classify", {"colour": 1, "size": 2}).json()["error"]["message"]
    assert said == "text: this field is required (and 2 more)"


def test_a_body_that_is_too_long_is_refused_whether_or_not_it_says_so(running: Running) -> None:
    said = post(running, "/v1/classify", {"text": "a" * 6000})
    parts = (b"a" * 1000 for _ in range(6))
    unsaid = requests.post(f"{running.url}/v1/classify", parts, timeout=30)
    assert (said.status_code, unsaid.status_code) == (413, 413)
    assert said.json()["error"]["param"] == "body"


def test_a_page_of_another_site_that_points_here_is_refused(running: Running) -> None:
    for host, status in (("localhost", 200), ("127.0.0.1:80", 200), ("evil.example", 400), ("10.0.0.1", 400)):
        done = requests.get(f"{running.url}/health", headers={"Host": host}, timeout=30)
        assert done.status_code == status, host


def test_a_form_that_any_page_may_send_is_not_read(running: Running) -> None:
    for path, body in (("classify", '{"text": "a"}'), ("completions", '{"prompt": "a"}')):
        done = requests.post(f"{running.url}/v1/{path}", body, timeout=30)
        assert (done.status_code, done.json()["error"]["param"]) == (400, "Content-Type")


def test_nothing_is_fetched_from_elsewhere_and_the_api_is_described(running: Running) -> None:
    assert requests.get(f"{running.url}/docs", timeout=30).status_code == 404
    paths = requests.get(f"{running.url}/openapi.json", timeout=30).json()["paths"]
    form = paths["/v1/answer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"context", "question"} <= {*form["$defs"]["ExtractiveQAOne"]["properties"]}


@pytest.mark.slow
def test_a_token_is_asked_for_where_there_is_one() -> None:
    with serving([served("classify")], token="secret") as running:
        row = {"text": "a"}
        assert post(running, "/v1/classify", row).status_code == 401
        wrong = {"Authorization": "Bearer another"}
        assert post(running, "/v1/classify", row, headers=wrong).status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert post(running, "/v1/classify", row, headers=right).status_code == 200
        assert requests.get(f"{running.url}/health", timeout=30).status_code == 200


def test_answers_are_masked_where_that_is_asked_for_and_finds_are_counted() -> None:
    with serving([served("classify")], masked_patterns=["g..d", "bad", "neither"]) as running:
        (answer,) = post(running, "/v1/classify", {"text": "a"}).json()["predictions"]
        assert answer["text"] == "[masked]"
        figures = requests.get(f"{running.url}/metrics", timeout=30).text
        assert 'prelude_masked_total{kind="pattern"}' in figures


@pytest.mark.parametrize(
    ("payload", "n_rows"),
    [
        ({"dataframe_records": [{"text": "a"}, {"text": "b"}]}, 2),
        ({"dataframe_split": {"columns": ["text"], "index": [0, 1], "data": [["a"], ["b"]]}}, 2),
        ({"instances": [{"text": "a"}]}, 1),
        ({"inputs": {"text": ["a", "b"]}}, 2),
        ({"inputs": ["a", "b"], "params": {"model": "classify"}}, 2),
    ],
)
def test_the_payloads_of_mlflow_are_answered_in_its_form(
    running: Running, payload: dict[str, Any], n_rows: int
) -> None:
    payload = {"params": {"model": "classify"}, **payload}
    done = post(running, "/invocations", payload)
    rows = post(running, "/v1/classify", {"rows": [{"text": text} for text in ("a", "b")[:n_rows]]})
    assert done.status_code == 200
    assert [one["text"] for one in done.json()["predictions"]] == [
        one["text"] for one in rows.json()["predictions"]
    ]


def test_a_payload_of_mlflow_that_is_none_is_refused_in_its_form(running: Running) -> None:
    for payload in ({}, {"inputs": 5}, {"inputs": ["a"], "instances": ["a"]}, {"dataframe_split": []}):
        done = post(running, "/invocations", payload)
        assert (done.status_code, done.json()["error_code"]) == (400, "BAD_REQUEST"), payload
    csv = requests.post(
        f"{running.url}/invocations",
        "turns\n1\n",
        headers={"Content-Type": "text/csv"},
        timeout=30,
    )
    assert csv.status_code == 400


def test_figures_tell_requests_batches_and_tokens(running: Running) -> None:
    post(running, "/v1/completions", {"prompt": "a", "max_tokens": 2})
    lines = requests.get(f"{running.url}/metrics", timeout=30).text.splitlines()
    names = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
    assert {
        "prelude_requests_total",
        "prelude_request_seconds_bucket",
        "prelude_waiting_rows",
        "prelude_written_tokens_total",
        "prelude_batch_rows_sum",
    } <= names
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert all(
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") in described
        for name in names
    )

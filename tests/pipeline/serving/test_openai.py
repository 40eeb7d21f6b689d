"""The official client of OpenAI notices no difference."""

import json
import random
import subprocess
import threading
from collections.abc import Iterator

import openai
import pytest

from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions, generate
from pipeline.stages.serve import example_request
from pipeline.tasks.base import forbidden_ids
from pipeline.tasks.chat import Dialogue
from pipeline.tasks.turns import Turn
from tests.pipeline.interop.test_tokenizer_files import chatml
from tests.pipeline.serving.models import LIMIT, TOKENIZER, Running, served, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving([served("causal_lm"), served("chat")], max_batch_rows=5) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found


def alone(name: str, prompt: list[int], options: SamplingOptions, n: int = 1) -> list[str]:
    """What the same model writes by itself."""
    model = served(name).bundle.model
    ids = generate(
        model,
        [prompt] * n,
        options,
        eos_id=TOKENIZER.eos_id,
        pad_id=TOKENIZER.pad_id,
        forbidden_ids=forbidden_ids(TOKENIZER),
    )
    return [TOKENIZER.decode(one) for one in ids]


def prompt_ids(text: str) -> list[int]:
    return served("causal_lm").task.prompt(text, TOKENIZER)


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["causal_lm", "chat"]
    assert client.models.retrieve("chat").owned_by == "prelude"


def test_a_completion_is_what_the_model_writes_alone(client: openai.OpenAI) -> None:
    done = client.completions.create(
        model="causal_lm",
        prompt=["Once", "Twice upon"],
        max_tokens=12,
        seed=4,
        temperature=0.7,
        top_p=0.9,
        n=2,
    )
    options = SamplingOptions(temperature=0.7, top_p=0.9, seed=4, max_new_tokens=12)
    expected = alone("causal_lm", prompt_ids("Once"), options, 2)
    expected += alone("causal_lm", prompt_ids("Twice upon"), options, 2)
    assert [choice.text for choice in done.choices] == expected
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert done.usage is not None
    n_prompt = len(prompt_ids("Once")) + len(prompt_ids("Twice upon"))
    assert (done.usage.prompt_tokens, done.usage.total_tokens) == (
        n_prompt,
        n_prompt + done.usage.completion_tokens,
    )


def test_the_pieces_of_a_stream_are_the_whole_answer(client: openai.OpenAI) -> None:
    asked = {"model": "causal_lm", "prompt": "Once", "max_tokens": 30, "seed": 1}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert pieces[-1].usage == whole.usage


def test_a_text_ends_before_a_stop_sequence_however_it_is_cut_into_tokens(client: openai.OpenAI) -> None:
    asked = {"model": "causal_lm", "prompt": "Once", "max_tokens": 30, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[9:12]
    expected = text[: text.index(stop)]
    done = client.completions.create(**asked, stop=[stop, "never there"])
    assert (done.choices[0].text, done.choices[0].finish_reason) == (expected, "stop")
    pieces = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == expected


def test_a_reply_is_that_of_the_dialogue(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Where is it?"}]},
    ]
    done = client.chat.completions.create(model="chat", messages=messages, max_completion_tokens=10)
    turns = [Turn("system", "Be kind."), Turn("user", "Where is it?")]
    ids = served("chat").task.prompt(turns, TOKENIZER, limit=LIMIT, reserve=10)
    (expected,) = alone("chat", ids, SamplingOptions(temperature=0.0, max_new_tokens=10))
    assert done.choices[0].message.content == expected.strip()
    pieces = list(client.chat.completions.create(model="chat", messages=messages, max_tokens=10, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected.strip()


def test_an_imported_model_with_chatml_completes_and_replies() -> None:
    tokenizer = chatml(has_start=False)
    model = served("causal_lm", tokenizer=tokenizer)
    assert served("causal_lm").dialogue is None
    turns = [Turn("user", "Where is it?")]
    ids = Dialogue().prompt(turns, tokenizer, limit=LIMIT, reserve=6)
    assert tokenizer.decode(ids, keep_special=True) == (
        "<|im_start|>user\nWhere is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    with (
        serving([model]) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        done = client.chat.completions.create(
            model="causal_lm", messages=[{"role": "user", "content": "Where is it?"}], max_tokens=6
        )
        assert (done.object, done.usage and done.usage.prompt_tokens) == ("chat.completion", len(ids))
        told = client.completions.create(model="causal_lm", prompt="Once", max_tokens=6)
        assert told.object == "text_completion"


@pytest.mark.parametrize(
    ("name", "tokenizer", "answered"),
    [
        ("causal_lm", TOKENIZER, "text_completion"),
        ("causal_lm", chatml(has_start=False), "chat.completion"),
        ("classify", TOKENIZER, None),
    ],
)
def test_the_printed_request_works_and_asks_a_model_that_replies_for_a_reply(
    name: str, tokenizer: Tokenizer, answered: str | None
) -> None:
    model = served(name, tokenizer=tokenizer)
    with serving([model]) as running:
        command = example_request(model, running.url, has_token=False)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.get("object") == answered
    assert ("predictions" in found) == (answered is None)


def test_what_cannot_be_asked_is_an_error_of_the_client_s_own_kind(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="gpt-4", prompt="Once")
    assert refused.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "a"}], temperature=-1
        )


@pytest.mark.slow
def test_each_of_many_answers_at_once_is_what_it_is_alone(client: openai.OpenAI) -> None:
    numbers = random.Random(0)
    asked = [
        {
            "prompt": "".join(numbers.choices("abcdefgh ", k=numbers.randrange(1, 30))) + "x",
            "max_tokens": numbers.randrange(1, 24),
            "seed": numbers.randrange(99),
            "temperature": numbers.choice([0.0, 0.8, 1.5]),
        }
        for _ in range(24)
    ]
    found: dict[int, str] = {}

    def ask(first: int) -> None:
        for number in range(first, len(asked), 8):
            done = client.completions.create(model="causal_lm", **asked[number])
            found[number] = done.choices[0].text

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, one in enumerate(asked):
        options = SamplingOptions(
            temperature=one["temperature"], seed=one["seed"], max_new_tokens=one["max_tokens"]
        )
        assert [found[number]] == alone("causal_lm", prompt_ids(one["prompt"]), options), one

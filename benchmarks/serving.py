"""Measure `make serve` with a pretrained bundle, over the loopback interface.

    python -m benchmarks.serving --bundle latest
    python -m benchmarks.serving --bundle runs/NAME/bundles/best --tokens 32 --requests 1000

Clients request greedy completions of prompts from the story world. The results are
`ready_s`: seconds from the start of the process to the first response;
`first_token_ms`: the median time to the first token of a stream, and `generate_first_token_ms` within a
process that has the model, as in `make generate`; `tokens_per_s_1` and `tokens_per_s_8`: with one client and
with eight; `requests_per_s`: with eight clients, and `peer_requests_per_s` of FastAPI with `generate` of
transformers and the exported model (`benchmarks.serving_peer`), or null if it cannot be exported; `lost` and
`wrong`: of many requests by 32 clients, those without a response, and those whose text differs from what the
model generates alone; `rss_mb`: the memory of the server before and after.

Standard output has one line of JSON. OMP_NUM_THREADS sets the threads of each process.
"""

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.arguments import count
from pipeline.errors import ConfigError, UserError

_START_LIMIT_S = 120.0
N_PROMPTS = 64
N_FIRST_TOKENS = 30
CLIENTS = 8
MANY_CLIENTS = 32
_HEADERS = {"Content-Type": "application/json"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="latest", help="a causal language model")
    parser.add_argument("--tokens", type=count, default=32, help="most tokens of each completion (32)")
    parser.add_argument("--requests", type=count, default=1000, help="requests by many clients (1000)")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(measure(options.bundle, n_tokens=options.tokens, n_requests=options.requests)))
    except UserError as error:
        sys.exit(f"error: {error}")


def measure(spec: str, *, n_tokens: int, n_requests: int) -> dict[str, Any]:
    """Return all results of a bundle."""
    from pipeline.runs.bundle import load_bundle
    from pipeline.runs.find import find_bundle
    from pipeline.tasks.causal_lm import CausalLM

    folder = find_bundle(spec, Path("runs"), task="causal_lm").absolute()
    bundle = load_bundle(folder)
    if not isinstance(bundle.task, CausalLM):
        raise ConfigError(
            f"{folder} does not continue text", "a bundle of `make pretrain`", "name another bundle"
        )
    room = bundle.model.backbone.max_seq_len + 1 - n_tokens
    prompts = [text for text in _prompts() if len(bundle.task.prompt(text, bundle.tokenizer)) <= room]
    if len(prompts) < CLIENTS:
        raise ConfigError(
            f"{n_tokens} tokens leave no room for prompts", "less than the model reads", "give fewer --tokens"
        )
    expected = _alone(bundle, prompts, n_tokens)
    command = ["-m", "pipeline", "serve", f"bundle={folder}", "tracking=off"]
    with running([*command, "port={port}"]) as (port, process, ready_s):
        ask = _asking(port, n_tokens)
        figures: dict[str, Any] = {"bundle": str(folder), "tokens": n_tokens, "ready_s": ready_s}
        figures["first_token_ms"] = median(
            _first_token_ms(port, prompt) for prompt in prompts[:N_FIRST_TOKENS]
        )
        for clients in (1, CLIENTS):
            answers, took_s = _timed(ask, prompts, clients)
            written = sum(answer["usage"]["completion_tokens"] for answer in answers)
            figures[f"tokens_per_s_{clients}"] = written / took_s
        figures["requests_per_s"] = len(prompts) / took_s
        figures |= _many(ask, prompts, expected, n_requests, process)
    figures["generate_first_token_ms"] = _generate_first_token_ms(bundle, prompts)
    figures["peer_requests_per_s"] = _peer(bundle, prompts, n_tokens)
    return figures


@contextmanager
def running(words: Sequence[str]) -> Iterator[tuple[int, psutil.Process, float]]:
    """Run a server in another process; yield its port, the process, and the seconds until it responded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    begun = time.monotonic()
    command = [sys.executable, *(word.format(port=port) for word in words)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ)) as process:
        try:
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - begun > _START_LIMIT_S:
                    raise RuntimeError(f"no answer of {command}")
                time.sleep(0.02)
            yield port, psutil.Process(process.pid), time.monotonic() - begun
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _asking(port: int, n_tokens: int) -> Callable[[str], Any]:
    """Return a function that requests a completion, and returns None if there is no response."""

    def ask(prompt: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = {"prompt": prompt, "max_tokens": n_tokens}
        greedy = body | {"temperature": 0}
        try:
            connection.request("POST", "/v1/completions", json.dumps(greedy), _HEADERS)
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == http.HTTPStatus.OK else None
        except OSError:
            return None
        finally:
            connection.close()

    return ask


def _first_token_ms(port: int, prompt: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True})
    connection.connect()
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", body, _HEADERS)
    answer = connection.getresponse()
    answer.readline()
    took_ms = 1000 * (time.perf_counter() - begun)
    connection.close()
    return took_ms


def _timed(ask: Callable[[str], Any], prompts: Sequence[str], clients: int) -> tuple[list[Any], float]:
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, prompts))
    return answers, time.perf_counter() - begun


def _many(
    ask: Callable[[str], Any],
    prompts: Sequence[str],
    expected: Sequence[str],
    n_requests: int,
    process: psutil.Process,
) -> dict[str, Any]:
    numbers = [random.Random(number).randrange(len(prompts)) for number in range(n_requests)]
    before = process.memory_info().rss
    answers, took_s = _timed(ask, [prompts[number] for number in numbers], MANY_CLIENTS)
    texts = [None if answer is None else answer["choices"][0]["text"] for answer in answers]
    wrong = sum(
        text != expected[number] for text, number in zip(texts, numbers, strict=True) if text is not None
    )
    return {
        "requests": n_requests,
        "lost": texts.count(None),
        "wrong": wrong,
        "many_requests_per_s": n_requests / took_s,
        "rss_mb": [round(size / 1e6) for size in (before, process.memory_info().rss)],
    }


def _alone(bundle: Any, prompts: Sequence[str], n_tokens: int) -> list[str]:
    """Return what the model generates for one prompt at a time."""
    from modules.generation import SamplingOptions

    options = SamplingOptions(temperature=0.0, max_new_tokens=n_tokens)
    texts = []
    for prompt in prompts:
        (sample,) = bundle.task.samples(
            bundle.model, bundle.tokenizer, prompts=[prompt], texts=[], options=options
        )
        texts.append(sample.output)
    return texts


def _generate_first_token_ms(bundle: Any, prompts: Sequence[str]) -> float:
    from modules.generation import SamplingOptions, stream

    tokenizer, options = bundle.tokenizer, SamplingOptions(temperature=0.0, max_new_tokens=2)
    times = []
    for prompt in prompts[:N_FIRST_TOKENS]:
        begun = time.perf_counter()
        ids = bundle.task.prompt(prompt, tokenizer)
        next(stream(bundle.model, [ids], options, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id))
        times.append(1000 * (time.perf_counter() - begun))
    return median(times)


def _peer(bundle: Any, prompts: Sequence[str], n_tokens: int) -> float | None:
    from pipeline.interop.export import export_bundle

    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        try:
            export_bundle(bundle, folder, None)
        except UserError as error:
            print(f"no peer: {error}", file=sys.stderr)
            return None
        with running(["-m", "benchmarks.serving_peer", str(folder), "{port}"]) as (port, _, _):
            ask = _asking(port, n_tokens)
            _timed(ask, prompts[:CLIENTS], CLIENTS)
            _, took_s = _timed(ask, prompts, CLIENTS)
    return len(prompts) / took_s


def _prompts() -> list[str]:
    """Return beginnings of stories with different lengths."""
    from datamodules.storyworld import StoryWorld

    texts = [row["text"] for row in StoryWorld(4 * N_PROMPTS).load().train][:N_PROMPTS]
    return [" ".join(text.split()[: 3 + place % 9]) for place, text in enumerate(texts)]


if __name__ == "__main__":
    main()

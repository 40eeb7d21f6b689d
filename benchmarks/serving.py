"""Measure `make serve` with a pretrained bundle, over the loopback interface.

    python -m benchmarks.serving --bundle latest
    python -m benchmarks.serving --bundle runs/NAME/bundles/best --tokens 32 --requests 1000 --seconds 90

Clients request greedy completions of prompts from the story world. What is compared alternates, so that other
programs on the machine slow both sides. The results are
`ready_s`, `ready_cpu_s`: from the start of the process to the first response, in seconds and in seconds of
processor time;
`first_token_ms`: the median time to the first token of a stream, and `generate_first_token_ms` within a
process that has the model, as in `make generate`; `first_token_ratio`: the median of their ratios in pairs;
`first_token_cpu_ms`, `generate_first_token_cpu_ms`, `client_cpu_ms`: the processor time of a request for one
token in the server (all threads), of `generate` and of the client;
`tokens_per_s_1`, `tokens_per_s_8`, `batch_ratio`: with one client, with eight, and their ratio;
`batch_cpu_ratio` is that of the server's processor time per token;
`requests_per_s`: with eight clients, `peer_requests_per_s` of FastAPI with `generate` of transformers and the
exported model (`benchmarks.serving_peer`), or null if it cannot be exported, and `peer_ratio`;
`lost` and `wrong`: of many requests by 32 clients, those without a response, and those whose text differs
from what the model generates alone; `rss_mb`: the memory of the server before and after.

Standard output has one line of JSON. OMP_NUM_THREADS sets the threads of each process. The rounds of
throughput end after `--seconds`. With the defaults, a run takes about a minute on two idle cores.
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
N_PROMPTS = 24
N_FIRST_TOKENS = 40
CLIENTS = 8
MANY_CLIENTS = 32
_HEADERS = {"Content-Type": "application/json"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="latest", help="a causal language model")
    parser.add_argument("--tokens", type=count, default=24, help="most tokens of each completion (24)")
    parser.add_argument("--requests", type=count, default=200, help="requests by many clients (200)")
    parser.add_argument("--seconds", type=count, default=40, help="duration of the rounds of throughput (40)")
    options = parser.parse_args(arguments)
    try:
        figures = measure(
            options.bundle,
            n_tokens=options.tokens,
            n_requests=options.requests,
            most_s=options.seconds,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(figures))


def measure(spec: str, *, n_tokens: int, n_requests: int, most_s: float) -> dict[str, Any]:
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
    command = ["-m", "pipeline", "serve", f"bundle={folder}", "tracking=off", "port={port}"]
    with (
        _peer(bundle) as peer_port,
        running(command) as (port, process, ready_s),
    ):
        figures: dict[str, Any] = {
            "bundle": str(folder),
            "parameters": sum(weight.numel() for weight in bundle.model.parameters()),
            "tokens": n_tokens,
            "ready_s": ready_s,
            "ready_cpu_s": _processor_s(process),
        }
        figures |= _first_tokens(bundle, port, process, prompts)
        ask = _asking(port, n_tokens)
        peer = None if peer_port is None else _asking(peer_port, n_tokens)
        figures |= _rounds(ask, peer, process, prompts, most_s)
        figures |= _many(ask, prompts, expected, n_requests, process)
    return {name: round(one, 3) if isinstance(one, float) else one for name, one in figures.items()}


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


def _first_tokens(
    bundle: Any, port: int, process: psutil.Process, prompts: Sequence[str]
) -> dict[str, float]:
    """Measure the first token of a stream and of `generate`, alternately."""
    turns = [prompts[number % len(prompts)] for number in range(N_FIRST_TOKENS)]
    for prompt in turns[:3]:
        _first_token_ms(port, prompt)
        _generate_first_token_ms(bundle, prompt)
    pairs = [(_first_token_ms(port, prompt), _generate_first_token_ms(bundle, prompt)) for prompt in turns]
    before, own = _processor_s(process), time.process_time()
    for prompt in turns:
        _first_token_ms(port, prompt)
    served_s, asking_s = _processor_s(process) - before, time.process_time() - own
    own = time.process_time()
    for prompt in turns:
        _generate_first_token_ms(bundle, prompt)
    return {
        "first_token_ms": median(served for served, _ in pairs),
        "generate_first_token_ms": median(generated for _, generated in pairs),
        "first_token_ratio": median(served / generated for served, generated in pairs),
        "first_token_cpu_ms": 1000 * served_s / len(turns),
        "client_cpu_ms": 1000 * asking_s / len(turns),
        "generate_first_token_cpu_ms": 1000 * (time.process_time() - own) / len(turns),
    }


def _first_token_ms(port: int, prompt: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True})
    connection.connect()
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", body, _HEADERS)
    answer = connection.getresponse()
    answer.readline()
    took_ms = 1000 * (time.perf_counter() - begun)
    connection.close()
    return took_ms


def _generate_first_token_ms(bundle: Any, prompt: str) -> float:
    from modules.generation import SamplingOptions, stream

    tokenizer, options = bundle.tokenizer, SamplingOptions(temperature=0.0, max_new_tokens=1)
    begun = time.perf_counter()
    ids = bundle.task.prompt(prompt, tokenizer)
    next(stream(bundle.model, [ids], options, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id))
    return 1000 * (time.perf_counter() - begun)


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rounds(
    ask: Callable[[str], Any],
    peer: Callable[[str], Any] | None,
    process: psutil.Process,
    prompts: Sequence[str],
    most_s: float,
) -> dict[str, float | None]:
    """Measure throughput with one client, eight clients, and eight clients of the peer, alternately."""
    few = prompts[: len(prompts) // 3]
    written = dict.fromkeys((1, CLIENTS), 0)
    took_s, used_s = dict.fromkeys(written, 0.0), dict.fromkeys(written, 0.0)
    answered, peer_s, n_rounds, begun = 0, 0.0, 0, time.monotonic()
    while n_rounds == 0 or time.monotonic() - begun < most_s:
        n_rounds += 1
        for clients, some in ((1, few), (CLIENTS, prompts)):
            before = _processor_s(process)
            answers, its_s = _timed(ask, some, clients)
            written[clients] += sum(answer["usage"]["completion_tokens"] for answer in answers)
            took_s[clients] += its_s
            used_s[clients] += _processor_s(process) - before
        answered += len(prompts)
        if peer is not None:
            peer_s += _timed(peer, few, CLIENTS)[1]
    rates = {clients: written[clients] / took_s[clients] for clients in written}
    cpu_ms = {clients: 1000 * used_s[clients] / written[clients] for clients in written}
    requests_per_s = answered / took_s[CLIENTS]
    peer_per_s = len(few) * n_rounds / peer_s if peer_s else None
    return {
        "rounds": n_rounds,
        "tokens_per_s_1": rates[1],
        f"tokens_per_s_{CLIENTS}": rates[CLIENTS],
        "batch_ratio": rates[CLIENTS] / rates[1],
        "cpu_ms_per_token_1": cpu_ms[1],
        f"cpu_ms_per_token_{CLIENTS}": cpu_ms[CLIENTS],
        "batch_cpu_ratio": cpu_ms[1] / cpu_ms[CLIENTS],
        "requests_per_s": requests_per_s,
        "peer_requests_per_s": peer_per_s,
        "peer_ratio": None if peer_per_s is None else requests_per_s / peer_per_s,
    }


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


@contextmanager
def _peer(bundle: Any) -> Iterator[int | None]:
    """Run a server of the exported model; yield its port, or None if it cannot be exported."""
    from pipeline.interop.export import export_bundle

    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        try:
            export_bundle(bundle, folder, None)
        except UserError as error:
            print(f"no peer: {error}", file=sys.stderr)
            yield None
            return
        with running(["-m", "benchmarks.serving_peer", str(folder), "{port}"]) as (port, _, _):
            _timed(_asking(port, 2), _prompts()[:CLIENTS], CLIENTS)
            yield port


def _prompts() -> list[str]:
    """Return beginnings of stories with different lengths."""
    from datamodules.storyworld import StoryWorld

    texts = [row["text"] for row in StoryWorld(4 * N_PROMPTS).load().train][:N_PROMPTS]
    return [_beginning(text, 3 + place % 9) for place, text in enumerate(texts)]


def _beginning(text: str, n_words: int) -> str:
    words = text.split()
    return " ".join(words[:n_words]) if len(words) > n_words else text[: 2 * n_words]  # Chinese has no spaces


if __name__ == "__main__":
    main()

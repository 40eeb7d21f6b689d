"""Serve bundles and registered models over HTTP."""

import json
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.registry import versions
from pipeline.serving.app import endpoints
from pipeline.serving.follow import Follower
from pipeline.serving.options import ServingOptions
from pipeline.serving.served import ServedModel, load_served
from pipeline.serving.server import Server, bind, run
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tracking.connection import connect
from pipeline.tracking.options import Store, TrackingOptions, resolve_store

#: The environment variable of the token: a secret does not belong on a command line or in a file.
TOKEN = "PRELUDE_TOKEN"

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: All addresses of this machine, and the one that a program on it connects to.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


#: Prints how to use the server, given the server, its URL, and whether it requires a token.
Introduce = Callable[[Server, str, bool], None]


def serve(config: Config) -> StageResult:
    """Serve models until Ctrl-C or SIGTERM."""
    return answer_requests(config, lambda: specs_of(config.bundle), introduce=_introduce)


def answer_requests(
    config: Config,
    find: Callable[[], Sequence[str]],
    *,
    introduce: Introduce,
    extend: Callable[[Server], None] = lambda server: None,
) -> StageResult:
    """Serve some models until Ctrl-C or SIGTERM.

    Args:
        config: the configuration of the stage.
        find: returns the models, as a user names them; called once the port is known to be free.
        introduce: called when the server is ready.
        extend: adds endpoints to the server before it starts.
    """
    options = construct(config.serving, ServingOptions)
    with bind(config.host, config.port) as listener:  # before models are loaded
        port = int(listener.getsockname()[1])
        specs = find()
        store = _store(config, specs)
        models = [_load(config, spec, store) for spec in specs]
        _check_names(models)
        follower = None
        if store is not None and any(model.version is not None for model in models):
            follower = Follower(
                store=store,
                every_s=options.follow_s,
                say=report.say,
                load=partial(load_served, quantization=config.quantization),
            )
        token = _token()
        server = Server(
            models,
            options,
            host=config.host,
            token=token,
            follower=follower,
            say=report.say,
            ready=lambda: _say_ready(server, config.host, port, introduce, has_token=token is not None),
        )
        extend(server)
        run(server, listener)
    report.say("Server", "stopped; all requests were answered")
    return StageResult(stage=config.stage.name, bundle=str(models[0].bundle.folder))


def specs_of(typed: str) -> Sequence[str]:
    """Split several models separated by spaces; a folder may have spaces in its name."""
    return [typed] if Path(typed).exists() else shlex.split(typed)


def _token() -> str | None:
    token = os.environ.get(TOKEN) or None
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"{TOKEN} has characters that cannot be part of an HTTP header",
            "printable ASCII characters without spaces",
            f"choose another token: {TOKEN}=$(openssl rand -hex 16)",
        )
    return token


def _store(config: Config, specs: Sequence[str]) -> Store | None:
    options = construct(config.tracking, TrackingOptions)
    if not any(map(versions.looks_registered, specs)):
        return None
    return resolve_store(options.uri, project_folder=Path.cwd(), environ=os.environ)


def _load(config: Config, spec: str, store: Store | None) -> ServedModel:
    if store is not None and versions.looks_registered(spec):
        with connect(store) as client:
            version = versions.find_version(client, spec)
        model = load_served(spec, version.folder, version, quantization=config.quantization)
    else:
        folder = versions.find_trained(spec, Path(config.runs_dir))
        model = load_served(spec, folder, quantization=config.quantization)
    number = "" if model.version is None else f" version {model.version}"
    report.say("Model", f"{model.name}{number}: {model.description}")
    report.say("Bundle", f"{report.short(model.bundle.folder)} ({model.digest[:12]})")
    return model


def _check_names(models: Sequence[ServedModel]) -> None:
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice} is named twice", "each model once", "leave out one of them")


def _say_ready(server: Server, host: str, port: int, introduce: Introduce, *, has_token: bool) -> None:
    reached = _WILDCARDS.get(host, host)
    where = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
    introduce(server, where, has_token)
    if host not in _LOOPBACK and not has_token:
        report.say(
            "Warning",
            f"anyone who can reach port {port} on {host} can use the models; set {TOKEN} to require a token",
        )
    report.say("Server", f"ready at {where}; press Ctrl-C to stop it")


def _introduce(server: Server, where: str, has_token: bool) -> None:
    say = partial(report.say, wrap=False)
    for endpoint in endpoints(server.api):
        method, _, path = endpoint.partition(" ")
        say("", f"{method:<5} {where}{path}")
    say("Try", example_request(next(iter(server.engine.models.values())), where, has_token=has_token))


def example_request(model: ServedModel, where: str, *, has_token: bool) -> str:
    """Return a curl command that works when pasted: a dialogue, if the model can reply."""
    path: str
    body: dict[str, Any]
    if isinstance(model.task, CausalLM) and model.dialogue is not None:
        message = {"role": "user", "content": "What is the capital of France?"}
        path, body = "chat/completions", {"messages": [message], "max_tokens": 40}
    elif isinstance(model.task, CausalLM):
        path, body = "completions", {"prompt": "One sunny morning", "max_tokens": 40}
    else:
        path, body = str(model.endpoint), dict(model.task.example_row)
    key = f'-H "Authorization: Bearer ${TOKEN}" ' if has_token else ""
    content = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {where}/v1/{path} {key}-H 'Content-Type: application/json' -d {content}"

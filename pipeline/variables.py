"""What the user typed as variables of `make`, and ARGS, as words of the command line.

The Makefile hands each variable over in the environment, as it was typed: neither make nor a shell expands
anything in it. `python -m pipeline --typed STAGE ...` reads them, and nothing else does.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence

from pipeline.config import groups, keys_used
from pipeline.errors import ConfigError
from pipeline.grammar import typed

#: The first word of a command of the Makefile.
FLAG = "--typed"

#: What the Makefile puts before a variable's name in the environment.
PREFIX = "TYPED_"

#: Names of the variables that stand on the command line of make: they were meant for this command.
ON_COMMAND_LINE = "TYPED"


def _switch(text: str) -> str:
    """True, false, or a name."""
    return {"1": "true", "true": "true", "0": "false", "false": "false"}.get(text.lower(), typed(text))


def _words(text: str) -> str:
    return typed(text.split())


def _one(text: str) -> str:
    return typed([text])


#: Variable -> the key that it sets, and how its text becomes a value.
VARIABLES: dict[str, tuple[str, Callable[[str], str]]] = {
    "DATA": ("data", typed),
    "INIT": ("init_from", typed),
    "BUNDLE": ("bundle", typed),
    "MODEL": ("bundle", typed),
    "INPUT": ("input", typed),
    "OUTPUT": ("output", typed),
    "RUN": ("run", typed),
    "ALIAS": ("alias", typed),
    "RESUME": ("resume", _switch),
    "PROMPT": ("prompts", _one),
    "RUNS": ("runs", _words),
    "TASKS": ("tasks", _words),
    "STAGE": ("step", typed),
    "PORT": ("port", str),
}

#: The key that a variable sets in one stage only.
OTHERWISE = {("sweep", "STAGE"): "sweep.stage"}

#: Stages whose words are for other stages too: they judge them.
PASSED_ON = ("pipeline", "why", "sweep")


def with_variables(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command line with the variables before its words, and ARGS after them, where make calls.

    Raises:
        ConfigError: ARGS has a quotation mark without its other half.
    """
    if arguments[:1] != [FLAG] or len(arguments) < 2:
        return list(arguments)
    stage, *words = arguments[1:]
    return [stage, *_overrides(stage, environ), *words, *_args(environ)]


def _overrides(stage: str, environ: Mapping[str, str]) -> list[str]:
    """What stands in the environment of a shell by chance, and is not for this stage, is passed over."""
    meant = environ.get(ON_COMMAND_LINE, "").split()
    found = []
    for name, (usual, value) in VARIABLES.items():
        key = OTHERWISE.get((stage, name), usual)
        text = environ.get(PREFIX + name, "")
        if text and (name in meant or _reads(stage, key)):
            found.append(f"{key}={value(text)}")
    return found


def _reads(stage: str, key: str) -> bool:
    top = key.partition(".")[0]
    if stage not in groups()["stage"]:  # show-config
        stage = "pretrain"
    return top in keys_used(stage) or (stage in PASSED_ON and top in groups())


def _args(environ: Mapping[str, str]) -> list[str]:
    try:
        return shlex.split(environ.get(f"{PREFIX}ARGS", ""))
    except ValueError as error:
        raise ConfigError(
            f"ARGS cannot be split into words ({str(error).lower()})",
            "quotation marks in pairs, and a backslash before a character",
            "write ARGS=\"key='a value'\"",
        ) from error

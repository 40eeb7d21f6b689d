"""Convert what the user typed after `make TARGET` (variables, keys, ARGS) to arguments of the command line.

The Makefile passes each variable through the environment, verbatim: neither make nor a shell expands
anything in it. Only `python -m pipeline --typed STAGE ...` reads them.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from hydra.core.override_parser.types import QuotedString

from pipeline.config.compose import keys_of_stage, keys_used
from pipeline.config.grammar import quoted, read_overrides, typed
from pipeline.config.groups import groups
from pipeline.config.suggestions import suggest_key
from pipeline.errors import ConfigError

#: The first word of a command of the Makefile.
FLAG = "--typed"

#: What the Makefile puts before a variable's name in the environment.
PREFIX = "TYPED_"

#: Names of all variables on make's command line, which were meant for this command. Those that are not listed
#: below are passed by number, as `TYPED_1` and so on, since names in the environment cannot contain dots.
ON_COMMAND_LINE = "TYPED"

#: Variables that make and Python themselves read.
NO_KEYS = ("PYTHON", "VENV", "DEBUG", "PIPELINE")


def _switch(text: str) -> str:
    """Convert a switch to true or false, and leave any other text, such as a name, as it is."""
    return {"1": "true", "true": "true", "0": "false", "false": "false"}.get(text.lower(), typed(text))


def _words(text: str) -> str:
    return typed(text.split())


def _one(text: str) -> str:
    return typed([text])


#: Variable -> the key that it sets, and how its text is converted to a value.
VARIABLES: dict[str, tuple[str, Callable[[str], str]]] = {
    "DATA": ("data", typed),
    "INIT": ("init_from", typed),
    "BUNDLE": ("bundle", typed),
    "MODEL": ("bundle", typed),
    "INPUT": ("input", typed),
    "OUTPUT": ("output", typed),
    "TO": ("output", typed),
    "FORMAT": ("format", typed),
    "FROM": ("source", typed),
    "NAME": ("name", typed),
    "RUN": ("run", typed),
    "ALIAS": ("alias", typed),
    "RESUME": ("resume", _switch),
    "PROMPT": ("prompts", _one),
    "RUNS": ("runs", _words),
    "TASKS": ("tasks", _words),
    "STAGE": ("step", typed),
    "PORT": ("port", str),
    "HOST": ("host", typed),
}

#: Keys that a variable sets in one stage only.
OTHERWISE = {("sweep", "STAGE"): "sweep.stage"}

#: Stages that pass their words on to other stages, which check them.
PASSED_ON = ("pipeline", "why", "sweep")


def with_variables(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Add the variables before the words of the command line, and ARGS after them, if make is the caller.

    Raises:
        ConfigError: if there is no such variable, or ARGS has an unmatched quotation mark.
    """
    if arguments[:1] != [FLAG] or len(arguments) < 2:
        return list(arguments)
    stage, *words = arguments[1:]
    return [stage, *_overrides(stage, environ), *words, *_keys(stage, environ), *_args(environ)]


def _overrides(stage: str, environ: Mapping[str, str]) -> list[str]:
    """Return the overrides from variables; environment variables that the stage does not read are ignored."""
    meant = environ.get(ON_COMMAND_LINE, "").split()
    found = []
    for name, (usual, value) in VARIABLES.items():
        key = OTHERWISE.get((stage, name), usual)
        text = environ.get(PREFIX + name, "")
        if text and (name in meant or _reads(stage, key)):
            found.append(f"{key}={value(text)}")
    return found


def _keys(stage: str, environ: Mapping[str, str]) -> list[str]:
    """Return the arguments that were typed as `key=value`.

    Raises:
        ConfigError: if a name looks like a variable but is not one.
    """
    names = [name for name in environ.get(ON_COMMAND_LINE, "").split() if name not in (*VARIABLES, "ARGS")]
    typed_as = {name: environ.get(f"{PREFIX}{number}", "") for number, name in enumerate(names, 1)}
    keys = {name: text for name, text in typed_as.items() if name not in NO_KEYS}
    for name in keys:
        if name.isupper():
            _refuse_variable(stage, name)
    return [f"{name}={_value(stage, text)}" for name, text in keys.items()]


def _value(stage: str, text: str) -> str:
    """Interpret a typed value: numbers and lists as such, several values only in a sweep, others as text."""
    try:
        (read,) = read_overrides([f"key={text}"])
    except ConfigError:
        return quoted(text)
    if read.is_sweep_override():
        return text if stage == "sweep" else quoted(text)
    value = read.value()
    is_bare = isinstance(value, str) and not isinstance(read._value, QuotedString)
    return typed(text) if is_bare else text


def _refuse_variable(stage: str, name: str) -> None:
    close = get_close_matches(name, VARIABLES, n=1, cutoff=0.7)
    before = f"to set an environment variable, write it before make: {name}=... make"
    known = keys_of_stage(stage if stage in groups()["stage"] else "pretrain")
    raise ConfigError(
        f"{name} is not a variable of the Makefile",
        f"one of {', '.join([*VARIABLES, 'ARGS'])}, or a key of the configuration in lower case",
        f"did you mean {close[0]}?" if close else suggest_key(name, [], known, otherwise=before),
    )


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
            "balanced quotation marks, and no backslash at the end",
            "write ARGS=\"key='a value'\"",
        ) from error

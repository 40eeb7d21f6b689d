"""Constructor signatures of this project, cached so that a check need not import the classes.

The classes that a configuration names import torch, which takes seconds: too long to report that a key is
misspelt. Signatures change only with the sources, so they are cached under the hash of the sources.
"""

import hashlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from filelock import FileLock
from pydantic import Field
from pydantic.fields import FieldInfo

from pipeline.config.plain import to_plain
from pipeline.config.targets import OWN_PACKAGES, PROJECT, parameters_of, target_of
from pipeline.files import write_whole

CACHE = PROJECT / ".cache" / "signatures.json"

_PLAIN = {kind.__name__: kind for kind in (bool, int, float, str, type(None))} | {"Any": Any, "...": ...}
_GENERIC = {kind.__name__: kind for kind in (list, dict, tuple, Mapping, Sequence)}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The parameters of a constructor.

    Args:
        target: the full name of the class.
        title: its own name, for messages.
        required: for each parameter, whether it must be given.
        hints: the parameters' type hints, except those that name a class, which would have to be imported.
        defaults: the plain defaults of parameters.
    """

    target: str
    title: str
    required: dict[str, bool]
    hints: dict[str, Any]
    defaults: dict[str, Any]

    def hint(self, name: str) -> Any:
        """Return the type hint of a parameter."""
        if name in self.hints:
            return self.hints[name]
        return parameters_of(target_of(self.target, self.title))[name][0]


def signature_of(target: str, path: str) -> Signature:
    """Return the signature of the class named `target`, from the cache or by importing it.

    Raises:
        ConfigError: if it names no class of this project.
    """
    known = _kept()
    if target not in known:
        known[target] = signature(target_of(target, path), target)
        _keep(known)
    return known[target]


@cache
def signature(owner: type, target: str = "") -> Signature:
    """Return the signature of a class that has already been imported."""
    parameters = parameters_of(owner)
    return Signature(
        target=target,
        title=owner.__name__,
        required={name: required for name, (_, required) in parameters.items()},
        hints={name: hint for name, (hint, _) in parameters.items()},
        defaults=_defaults(owner),
    )


def _defaults(owner: type) -> dict[str, Any]:
    """Return name -> default, for each parameter with a plain default."""
    found = {name: parameter.default for name, parameter in inspect.signature(owner).parameters.items()}
    for item in fields(owner) if is_dataclass(owner) else ():
        if item.default_factory is not MISSING:
            found[item.name] = item.default_factory()
    return {name: to_plain(value) for name, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


@cache
def _kept() -> dict[str, Signature]:
    """Return the signatures known to this process, by the full name of the class."""
    return _read()


def _read() -> dict[str, Signature]:
    """Return the cached signatures of these sources; empty if the cache cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(CACHE.read_text(encoding="utf-8"))
        if kept["sources"] == _digest():
            return {target: _from_json(target, facts) for target, facts in kept["classes"].items()}
    return {}


def _keep(known: Mapping[str, Signature]) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs time
        CACHE.parent.mkdir(exist_ok=True)
        with FileLock(CACHE.with_suffix(".lock")):  # another process may have added some
            classes = {target: _to_json(one) for target, one in (_read() | dict(known)).items()}
            write_whole(CACHE, json.dumps({"sources": _digest(), "classes": classes}))


@cache
def _digest() -> str:
    """Return a hash of the sources of all classes, and of the versions of Python and pydantic."""
    digest = hashlib.sha256(f"{sys.version} {pydantic.VERSION}".encode())
    for package in OWN_PACKAGES:
        for file in sorted(Path(PROJECT, package).rglob("*.py")):
            digest.update(f"{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _to_json(one: Signature) -> dict[str, Any]:
    hints = {}
    for name, hint in one.hints.items():
        with suppress(_NotPlain):
            hints[name] = _encoded(hint)
    return {"title": one.title, "required": one.required, "hints": hints, "defaults": one.defaults}


def _from_json(target: str, facts: Mapping[str, Any]) -> Signature:
    return Signature(
        target=target,
        title=facts["title"],
        required=facts["required"],
        hints={name: _decoded(hint) for name, hint in facts["hints"].items()},
        defaults=facts["defaults"],
    )


class _NotPlain(Exception):  # noqa: N818 - not an error: such a hint is read from its class
    """A type hint names a class."""


def _encoded(hint: Any) -> Any:
    for name, kind in _PLAIN.items():
        if hint is kind:
            return name
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"literal": list(arguments)}
    if origin is Annotated:
        return {"annotated": _encoded(arguments[0]), "limits": _limits(arguments[1:])}
    if origin in (typing.Union, types.UnionType):
        return {"union": list(map(_encoded, arguments))}
    for name, kind in _GENERIC.items():
        if origin is kind:
            return {"generic": name, "of": list(map(_encoded, arguments))}
    raise _NotPlain


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for item in metadata:
        if not isinstance(item, FieldInfo) or not all(map(is_dataclass, item.metadata)):
            raise _NotPlain
        for limit in item.metadata:
            limits |= asdict(limit)
    return limits


def _decoded(hint: Any) -> Any:
    if isinstance(hint, str):
        return _PLAIN[hint]
    if "literal" in hint:
        return Literal[tuple(hint["literal"])]
    if "annotated" in hint:
        return Annotated[_decoded(hint["annotated"]), Field(**hint["limits"])]
    if "union" in hint:
        return typing.Union[tuple(map(_decoded, hint["union"]))]  # noqa: UP007 - of a computed tuple
    return _GENERIC[hint["generic"]][tuple(map(_decoded, hint["of"]))]

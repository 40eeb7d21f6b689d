"""A family of Hugging Face models as two tables, of configuration keys and of weights, for both directions.

*Ours* are the names in a bundle: dotted keys of `model.json`, including all defaults and derived sizes, and
names of the state dict. *Theirs* are the names in `config.json` and in their state dict. The tables are
functions of our configuration, because some weights are optional.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pipeline.errors import InteropError
from pipeline.interop.operations import Operation

Values = dict[str, Any]
State = dict[str, Tensor]

#: Keys of ours that do not affect the output of a trained model.
WITHOUT_EFFECT = ("init", "backbone.layer.dropout", "head.dropout", "backbone.max_seq_len")


#: The head of a model that was saved without one, and the options that rules may depend on.
NO_HEAD = "modules.heads.NoHead"
_HEAD_OPTIONS = ("head.tied", "head.bias")


@dataclass(frozen=True)
class Key:
    """A value that both configurations have.

    Args:
        theirs: its key in their configuration; of several keys the first is read and all are written.
        ours: its key in our configuration.
        values: a mapping from their values to ours, if these differ.
        offset: their value minus ours, for numbers.
    """

    theirs: str | tuple[str, ...]
    ours: str
    values: Mapping[Any, Any] | None = None
    offset: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Their keys."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclass(frozen=True)
class Ours:
    """A value that our configuration must have, or one of `also`, without a key in theirs."""

    key: str
    value: Any
    also: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Theirs:
    """A value that their configuration must have, without a key in ours."""

    key: str
    value: Any


Entry = Key | Ours | Theirs


@dataclass(frozen=True)
class Rule:
    """Tensors of ours, possibly none, that correspond to tensors of theirs, and the steps to ours."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    steps: Sequence[Operation] = field(default_factory=tuple)

    def forward(self, theirs: Mapping[str, Tensor]) -> State:
        """Convert their tensors to ours.

        Raises:
            ValueError: the values of tensors make that impossible; names them.
        """
        tensors = [theirs[name] for name in self.theirs]
        try:
            for step in self.steps:
                tensors = step.forward(tensors)
        except ValueError as error:
            raise ValueError(f"{error}: {', '.join(self.theirs)}") from error
        return dict(zip(self.ours, tensors, strict=True))

    def backward(self, ours: Mapping[str, Tensor]) -> State:
        """Convert our tensors to theirs."""
        tensors = [ours[name] for name in self.ours]
        for step in reversed(self.steps):
            tensors = step.backward(tensors)
        return dict(zip(self.theirs, tensors, strict=True))


def same(ours: str, theirs: str, *steps: Operation) -> Rule:
    """Return a rule for one tensor."""
    return Rule((ours,), (theirs,), steps)


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Rule]:
    """Return rules for the weight of a linear layer or norm and, optionally, its bias."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", *(["bias"] if bias else []))]


class Family(ABC):
    """The models of one `model_type`.

    Class attributes:
        model_type: the value in `config.json`.
        architecture: the class of `transformers` for a complete model of the family.
        backbone: the name of our class.
        prefix: the prefix of the backbone's tensors, which is absent if a backbone was saved alone.
        unused: tensors that files may contain and that our models do not use.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    backbone: ClassVar[str]
    prefix: ClassVar[str] = ""
    unused: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def keys(self) -> list[Entry]:
        """Return the table of the configuration."""

    @abstractmethod
    def rules(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the table of the weights of a model with our configuration `ours` (dotted keys)."""

    def derived(self, ours: Mapping[str, Any]) -> tuple[str, ...]:
        """Return tensors that files may contain and that follow from others, such as tied ones."""
        return ()

    def fits(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Any]) -> bool:
        """Return whether the tensors are of this family, if several families share a `model_type`."""
        return True

    def hidden_to_theirs(self, hidden: Tensor, ours: Mapping[str, Any]) -> Tensor:
        """Return our hidden states (B, T, D) with their order of features."""
        return hidden

    def is_head_rule(self, rule: Rule) -> bool:
        """Return whether a rule is for tensors of the head."""
        return bool(rule.ours) and all(name.startswith("head.") for name in rule.ours)

    def rules_for(self, ours: Mapping[str, Any]) -> list[Rule]:
        """Return the table of the weights, without those of the head if the model has none."""
        rules = self.rules({**dict.fromkeys(_HEAD_OPTIONS), **ours})
        return [rule for rule in rules if ours["head._target_"] != NO_HEAD or not self.is_head_rule(rule)]

    def to_ours(self, theirs: Mapping[str, Any]) -> Values:
        """Return our configuration as dotted keys.

        Raises:
            InteropError: their configuration has a value that our classes cannot express.
        """
        ours: Values = {"backbone._target_": f"modules.transformer.{self.backbone}", "init": "default"}
        for entry in self.keys():
            match entry:
                case Ours():
                    ours[entry.key] = entry.value
                case Theirs():
                    _check(entry.key, _get(theirs, entry.key), [entry.value], self.model_type)
                case Key():
                    value = _get(theirs, entry.names[0])
                    if entry.values is not None:
                        _check(entry.names[0], value, list(entry.values), self.model_type)
                        value = entry.values[value]
                    ours[entry.ours] = value - entry.offset if entry.offset else value
        return ours

    def to_theirs(self, ours: Mapping[str, Any]) -> Values:
        """Return their configuration as nested containers.

        Raises:
            InteropError: our configuration has values that the family cannot express.
        """
        if problems := self.problems(ours):
            actual = ", ".join(f"model.{key}={ours.get(key)}" for key in problems)
            needed = ", ".join(f"model.{key}={value}" for key, value in problems.items())
            raise InteropError(
                f"{self.architecture} cannot express {actual}",
                needed,
                "train a model with these options, or choose another FORMAT",
            )
        theirs: Values = {"model_type": self.model_type, "architectures": [self.architecture]}
        for entry in self.keys():
            if isinstance(entry, Theirs):
                _set(theirs, entry.key, entry.value)
            elif isinstance(entry, Key):
                value: Any = ours.get(entry.ours)
                if entry.values is not None:
                    value = next(name for name, known in entry.values.items() if known == value)
                for name in entry.names:
                    _set(theirs, name, value + entry.offset if entry.offset else value)
        return theirs

    def problems(self, ours: Mapping[str, Any]) -> dict[str, str]:
        """Return what the family requires instead of each value that it cannot express, by our key."""
        allowed: dict[str, list[Any] | None] = {
            "backbone._target_": [f"modules.transformer.{self.backbone}"],
            **dict.fromkeys(WITHOUT_EFFECT),
        }
        for entry in self.keys():
            if isinstance(entry, Ours):
                allowed[entry.key] = [entry.value, *entry.also]
            elif isinstance(entry, Key):
                allowed[entry.ours] = None if entry.values is None else list(entry.values.values())
        problems: dict[str, str] = {}
        for key in sorted(
            {*allowed, *ours}, key=lambda key: (key.count("."), not key.endswith("_target_"), key)
        ):
            fitting = allowed.get(key, _defaults(ours, key))
            if fitting is not None and ours.get(key) not in fitting and not _is_below(key, problems):
                problems[key] = " or ".join(map(str, dict.fromkeys(fitting)))
        return problems

    def weights_to_ours(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Any]) -> State:
        """Convert their state dict to ours; each tensor is used exactly once.

        Raises:
            InteropError: tensors are missing or unused.
        """
        self.check_names(theirs, ours)
        rules = self.rules_for(ours)
        return {name: tensor for rule in rules for name, tensor in rule.forward(theirs).items()}

    def check_names(self, theirs: Iterable[str], ours: Mapping[str, Any]) -> None:
        """Check that their tensors are exactly those that the table uses.

        Raises:
            InteropError: tensors are missing or unused.
        """
        expected = [name for rule in self.rules_for(ours) for name in rule.theirs]
        _check_names(theirs, expected, self.derived({**dict.fromkeys(_HEAD_OPTIONS), **ours}))

    def weights_to_theirs(self, state: Mapping[str, Tensor], ours: Mapping[str, Any]) -> State:
        """Convert our state dict to theirs; each tensor is used exactly once.

        Raises:
            InteropError: tensors are missing or unused.
        """
        rules = self.rules_for(ours)
        _check_names(state, [name for rule in rules for name in rule.ours], ())
        written = {name: tensor for rule in rules for name, tensor in rule.backward(state).items()}
        return {name: tensor.contiguous() for name, tensor in written.items()}


def _is_below(key: str, problems: Iterable[str]) -> bool:
    """Return whether a key is an option of a class that is itself a problem."""
    classes = [name.removesuffix("_target_") for name in problems if name.endswith("_target_")]
    return any(key.startswith(prefix) for prefix in classes)


def _defaults(ours: Mapping[str, Any], key: str) -> list[Any]:
    """Return the allowed values of a key that the family does not mention: the derived or neutral ones."""
    name = key.removeprefix("backbone.layer.")
    if name == "d_head":
        return [ours["backbone.layer.d_model"] // ours["backbone.layer.n_heads"]]
    if name == "n_kv_heads":
        return [ours["backbone.layer.n_heads"]]
    return [None, False, 0]


def _check(key: str, value: Any, allowed: Sequence[Any], family: str) -> None:
    if value not in allowed:
        raise InteropError(
            f"config.json: {key} is {value!r}, which is not supported for {family}",
            " or ".join(map(repr, allowed)),
            "choose another model of the family",
        )


def _check_names(names: Iterable[str], expected: Sequence[str], derived: Iterable[str]) -> None:
    present = set(names) - set(derived)
    missing, surplus = sorted(set(expected) - present), sorted(present - set(expected))
    if missing or surplus:
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"not used: {', '.join(surplus)}"] if surplus else []
        raise InteropError(
            f"the weights do not match the configuration ({'; '.join(parts)})",
            "each tensor used exactly once",
            "check that config.json and the weights belong together",
        )


def _get(nested: Mapping[str, Any], dotted: str) -> Any:
    value: Any = nested
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _set(nested: Values, dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        nested = nested.setdefault(part, {})
    nested[last] = value

"""Read and validate the files of a bundle before anything is built: a bundle may come from anywhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, Required

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn
from typing_extensions import TypedDict

from modules.meta import on_meta_device
from modules.model import Model
from modules.transformer import Transformer
from pipeline.config.check import check_nodes
from pipeline.config.construct import class_of, construct
from pipeline.errors import BundleError, UserError
from pipeline.files import read_json, read_yaml
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import FinetuneTask

Task = PretrainingTask | FinetuneTask


class ModelForm(TypedDict):
    """The contents of model.json."""

    backbone: dict[str, Any]
    head: dict[str, Any]
    init: str
    adapter: NotRequired[dict[str, Any]]


class TaskForm(TypedDict):
    """The contents of task.json; the other keys are the options of the class."""

    _target_: str


class ConfigForm(TypedDict):
    """The required part of config.yaml."""

    choices: dict[str, Any]


class CorpusForm(TypedDict, total=False):
    """The record of a bundle's corpus."""

    name: str
    fingerprint: str
    sources: list[dict[str, Any]]


class ParentForm(TypedDict, total=False):
    """The record of a bundle's parent."""

    run: Required[str]
    bundle: Required[str]
    digest: str
    provenance: "ProvenanceForm"


class ProvenanceForm(TypedDict, total=False):
    """The contents of provenance.json; older versions may lack everything but the run."""

    run: Required[str]
    stage: str
    step: int
    tokenizer: str | None
    tokenizer_run: str | None
    train_rows: str | None
    validation_rows: str | None
    corpus: CorpusForm
    parent: ParentForm | None
    imported: dict[str, Any]
    code: dict[str, str | int | float | bool | None]


_FORMS: dict[str, TypeAdapter[Any]] = {
    "model.json": TypeAdapter(ModelForm),
    "task.json": TypeAdapter(TaskForm),
    "config.yaml": TypeAdapter(ConfigForm),
    "metrics.json": TypeAdapter(dict[str, float]),
    "provenance.json": TypeAdapter(ProvenanceForm),
}

#: Numbers above this are rejected unless the model has at least as many weights.
SMALL = 2**16

#: The types in which weights are stored.
FLOATS = ("F32", "BF16", "F16", "F64")


def read_part(folder: Path, name: str) -> dict[str, Any]:
    """Read the object in a JSON file of a bundle, or the mapping in its YAML file.

    Raises:
        BundleError: if the file is missing, or has other contents.
    """
    file = folder / name
    with refused(file):
        found = read_yaml(file) if file.suffix == ".yaml" else read_json(file, finite=name == "model.json")
        try:
            _FORMS[name].validate_python(found, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}" if place else str(first["msg"])) from error
        return dict(found)


def backbone_class(folder: Path) -> type[Transformer]:
    """Return the class of a bundle's backbone, without building it.

    Raises:
        BundleError: if it is not a class of this project.
    """
    node = read_part(folder, "model.json")["backbone"]
    with refused(folder / "model.json"):
        return class_of(node, Transformer, path="model.backbone")


def task_class(folder: Path) -> type[Task]:
    """Return the class of a bundle's task, without building it.

    Raises:
        BundleError: if it is not a class of this project.
    """
    node = read_part(folder, "task.json")
    with refused(folder / "task.json"):
        return class_of(node, FinetuneTask, PretrainingTask, path="task")


def read_task(folder: Path) -> Task:
    """Build a bundle's task.

    Raises:
        BundleError: if its class is not of this project, or does not accept its options.
    """
    node = read_part(folder, "task.json")
    with refused(folder / "task.json"):
        class_of(node, FinetuneTask, PretrainingTask, path="task")
        check_nodes(node, "task")
        return construct(node, FinetuneTask, PretrainingTask)


def check_model_config(config: Mapping[str, Any], file: Path) -> None:
    """Reject the description of a model that this project cannot build, before anything is built.

    Raises:
        BundleError: if it names classes outside this project, or options that they do not accept.
    """
    with refused(file):
        class_of(config["backbone"], Transformer, path="model.backbone")
        class_of(config["head"], nn.Module, path="model.head")
        check_nodes(config["backbone"], "model.backbone")
        check_nodes(config["head"], "model.head")


def load_weights(file: Path, config: Mapping[str, Any], make: Callable[[], Model]) -> Model:
    """Load weights into a new model; names and shapes are compared before memory is allocated.

    Raises:
        BundleError: if the weights do not belong to this model, or are not finite.
    """
    with refused(file):
        stored = shapes_in(file)
    with refused(file.with_name("model.json")):
        n_weights = sum(torch.Size(shape).numel() for shape in stored.values())
        check_sizes(config, at_most=max(n_weights, SMALL))
        if config["backbone"].get("n_layers", 1) > len(stored):
            raise ValueError(f"n_layers is {config['backbone']['n_layers']}, with {len(stored)} tensors")
        with on_meta_device():
            planned = make()
    with refused(file):
        _compare(stored, planned)
        with torch.random.fork_rng(devices=[]):
            model = make()
        load_model(model, str(file))
        for name, weight in model.state_dict().items():
            if not torch.isfinite(weight).all():
                raise ValueError(f"{name} contains NaN or infinity")
    return model


@contextmanager
def refused(file: Path) -> Iterator[None]:
    """Convert any exception to a `BundleError` that names the file.

    Raises:
        BundleError: for any exception, since the libraries may raise anything for a bad file.
    """
    try:
        yield
    except BundleError:
        raise
    except UserError as error:
        raise _not_ours(file, error.problem) from error
    except OSError as error:
        raise _not_ours(file, error.strerror or str(error)) from error
    except Exception as error:
        raise _not_ours(file, " ".join(str(error).split())[:200] or type(error).__name__) from error


def _not_ours(file: Path, reason: str) -> BundleError:
    return BundleError(
        f"{file} cannot be used ({reason})",
        "a file written by this project",
        "do not use it if you do not trust its source; otherwise train again, or restore it from a copy",
    )


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Read name -> shape for each tensor in a file, from its header only."""
    with safe_open(str(file), framework="pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        if not slices:
            raise ValueError("no weights")
        for name, each in slices.items():
            if each.get_dtype() not in FLOATS:
                raise ValueError(f"{name} is of type {each.get_dtype()}, not one of {', '.join(FLOATS)}")
        return {name: tuple(each.get_shape()) for name, each in slices.items()}


def check_sizes(node: Any, *, at_most: int) -> None:
    """Reject numbers larger than `at_most`, which could exhaust memory or time."""
    for value in node.values() if isinstance(node, Mapping) else node:
        if isinstance(value, Mapping | list):
            check_sizes(value, at_most=at_most)
        elif isinstance(value, int) and abs(value) > at_most:
            raise ValueError(f"{value} is larger than the number of weights")


def _compare(stored: Mapping[str, tuple[int, ...]], planned: Model) -> None:
    """Reject weights whose names or shapes differ from the model's; a tied tensor is stored once."""
    expected: dict[str, Tensor] = planned.state_dict(keep_vars=True)
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        by_tensor.setdefault(id(tensor), []).append(name)
    missing = [names[0] for names in by_tensor.values() if not set(names) & stored.keys()]
    surplus = sorted(stored.keys() - expected.keys())
    if missing or surplus:
        what = [f"{names[0]} and {len(names) - 1} more" for names in (missing, surplus) if names]
        raise ValueError(f"{'missing' if missing else 'not of this model'}: {what[0]}")
    for name, shape in stored.items():
        if tuple(expected[name].shape) != shape:
            raise ValueError(f"{name} has the shape {shape}, the model {tuple(expected[name].shape)}")

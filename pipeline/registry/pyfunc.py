"""Write the files that MLflow needs to load and serve a bundle: `MLmodel`, code, requirements, example."""

import logging
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.runs.code import ROOMS, ROOT
from pipeline.runs.stored import read_task
from pipeline.tasks.finetuning import FinetuneTask

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")

#: The packages needed to load a bundle and predict with it; a test checks that they suffice.
REQUIREMENTS = (
    *("mlflow", "torch", "numpy", "tokenizers", "safetensors", "pydantic", "PyYAML", "pyarrow", "regex"),
    *("filelock", "jaxtyping", "pandas", "typing_extensions"),
)

#: The parameters of a request to a pretrained model, with their defaults.
_PARAMETERS: dict[str, int | float] = {"max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0, "seed": 0}

_EXAMPLE_PROMPT = "One sunny morning"


def add_pyfunc(client: "MlflowClient", model_id: str, folder: Path) -> None:
    """Add the files of a pyfunc to a bundle's LoggedModel, so that MLflow can load and serve it.

    The bundle's files are not changed, and its weights are not read.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # MLflow warns about its own type hints during import, and about its own use of pandas.
        warnings.filterwarnings("ignore", module="mlflow")
        client.log_model_artifacts(model_id, str(write_pyfunc(Path(scratch) / "model", folder)))


def write_pyfunc(target: Path, folder: Path) -> Path:
    """Write the pyfunc files of the bundle in `folder` to `target`, and return `target`."""
    import mlflow.pyfunc

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    task = read_task(folder)
    signature, example = _signature(task)
    mlflow.pyfunc.save_model(
        str(target),
        python_model=str(MODEL_CODE),
        code_paths=[str(ROOT / room) for room in ROOMS],
        signature=signature,
        input_example=example,
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
    )
    described = target / "MLmodel"
    content = yaml.safe_load(described.read_text(encoding="utf-8"))
    content["flavors"]["python_function"] |= {
        "artifacts": {"bundle": {"path": ".", "uri": "."}},
        "model_code_path": MODEL_CODE.name,  # MLflow would write an absolute path of this machine
    }
    described.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return target


def _signature(task: Any) -> tuple["ModelSignature", Any]:
    """Return the model's signature, and an example input."""
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    if not isinstance(task, FinetuneTask):
        kinds = {int: DataType.long, float: DataType.double}
        params = ParamSchema([ParamSpec(name, kinds[type(one)], one) for name, one in _PARAMETERS.items()])
        inputs = Schema([ColSpec(DataType.string, "prompt")])
        example = (pd.DataFrame([{"prompt": _EXAMPLE_PROMPT}]), _PARAMETERS)
        return ModelSignature(inputs=inputs, params=params), example
    columns = task.input_columns
    specs: list[ColSpec | TensorSpec] = [
        ColSpec(_type_of(task.input_types.get(name, str)), name, required=name in columns.required)
        for name in (*columns.required, *columns.optional)
    ]
    return ModelSignature(inputs=Schema(specs)), pd.DataFrame([dict(task.example_row)])


def _type_of(kind: Any) -> Any:
    from pydantic import TypeAdapter

    schema = TypeAdapter(kind).json_schema()
    return _mlflow_type(schema, schema.get("$defs", {}))


def _mlflow_type(schema: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Return MLflow's type for a JSON schema."""
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType, Array, Object, Property

    if "type" not in schema and "$ref" not in schema:  # a union of types
        return AnyType()  # type: ignore[no-untyped-call]
    if "$ref" in schema:
        return _mlflow_type(known[schema["$ref"].rpartition("/")[2]], known)
    if schema["type"] == "array":
        return Array(_mlflow_type(schema["items"], known))
    if schema["type"] == "object":
        needed = schema.get("required", ())
        return Object(
            [
                Property(name, _mlflow_type(one, known), required=name in needed)
                for name, one in schema["properties"].items()
            ]
        )
    names = {"string": DataType.string, "integer": DataType.long, "number": DataType.double}
    return {**names, "boolean": DataType.boolean}[schema["type"]]

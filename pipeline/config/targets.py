"""Find the class behind a name that a configuration, a bundle or a run contains."""

import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pipeline.errors import ConfigError

PROJECT = Path(__file__).parents[2]

#: The packages whose classes a configuration, a bundle or a run may name.
OWN_PACKAGES = ("datamodules", "modules", "pipeline")

#: Former full names of classes, found in older bundles and runs -> their current names.
MOVED = {
    "pipeline.callbacks.freezing.Freezing": "pipeline.training.callbacks.freezing.Freezing",
    "pipeline.trainer.TrainerOptions": "pipeline.machine.options.TrainerOptions",
}


def target_of(name: str, path: str) -> type:
    """Return the class that a `_target_` names. Only source files of this project are imported.

    Raises:
        ConfigError: if the name is not that of a class of this project.
    """
    module, _, attribute = MOVED.get(name, name).rpartition(".")
    try:
        if not _is_own(module):
            raise ImportError("not a module of this project")
        found = getattr(importlib.import_module(module), attribute)
        if not (inspect.isclass(found) and _is_own(found.__module__)):
            raise ImportError("not a class of this project")
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{path}._target_: cannot import '{name}' ({str(error).strip().splitlines()[0]})",
            "the full name of a class in datamodules, modules or pipeline",
            "compare with the yaml files in configs/",
        ) from error
    return found


def _is_own(module: str) -> bool:
    """Return whether a module is a source file of this project, without importing it.

    A folder without `__init__.py` is not a package, so nothing in `runs/` is ever imported.
    """
    parts = module.split(".")
    if parts[0] not in OWN_PACKAGES or not all(part.isidentifier() for part in parts):
        return False
    folders = [PROJECT.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    last = folders.pop()
    whole = all((folder / "__init__.py").is_file() for folder in folders)
    return whole and (last.with_suffix(".py").is_file() or (last / "__init__.py").is_file())


@cache
def parameters_of(owner: Any) -> dict[str, tuple[Any, bool]]:
    """Return name -> (type hint, whether it is required) for each constructor parameter."""
    hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner, include_extras=True)
    return {
        name: (hints.get(name, Any), parameter.default is parameter.empty)
        for name, parameter in inspect.signature(owner).parameters.items()
    }

"""Import torchmetrics without the optional packages that it imports when they are installed."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: Packages for audio metrics, embedding metrics and plots, which Prelude does not use. Together they take
#: twice as long to import as Lightning, which imports all of torchmetrics only to read its version.
OPTIONAL = frozenset({"matplotlib", "scipy", "transformers"})


def import_torchmetrics_alone() -> None:
    """Make the first import of torchmetrics find none of the `OPTIONAL` packages.

    Other code can still import them. For the rest of the process, torchmetrics lacks the metrics that need
    them, such as `BERTScore`.
    """
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """An import hook that finds torchmetrics once, with a loader that hides the optional packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_alone(module: ModuleType) -> None:
            with _hidden():
                load(module)

        spec.loader.exec_module = load_alone  # type: ignore[method-assign]
        return spec


@contextmanager
def _hidden() -> Iterator[None]:
    """Make `lightning_utilities`, with which torchmetrics detects packages, report them as not installed."""
    imports: Any = import_module("lightning_utilities.core.imports")
    find, version = imports.find_spec, imports._version

    def find_others(name: str) -> ModuleSpec | None:
        return None if name in OPTIONAL else find(name)

    def version_of_others(name: str) -> str:
        if name in OPTIONAL:
            raise PackageNotFoundError(name)
        return str(version(name))

    imports.package_available.cache_clear()
    imports.find_spec, imports._version = find_others, version_of_others
    try:
        yield
    finally:
        imports.find_spec, imports._version = find, version
        imports.package_available.cache_clear()

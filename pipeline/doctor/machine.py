"""Compare versions with the project's requirements, and describe the hardware."""

import os
import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pipeline.doctor.findings import Finding
from pipeline.machine.devices import describe_device
from pipeline.machine.options import TrainerOptions
from pipeline.tuning import usable_cores

ROOT = Path(__file__).parent.parent.parent

#: Packages whose versions affect what works and what the results are.
PACKAGES = ("torch", "lightning", "mlflow", "datasets", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A version, or a property of the machine.

    Args:
        what: its name.
        found: its value on this machine.
        required: the range that the project works with.
        tested: the version that it is tested with.
        fits: whether the value is in the range.
    """

    what: str
    found: str
    required: str = ""
    tested: str = ""
    fits: bool = True


def versions(root: Path = ROOT) -> list[Fact]:
    """Compare Python and the main packages with `pyproject.toml` and `constraints.txt`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = _pinned(root / "constraints.txt")
    python = platform.python_version()
    required = SpecifierSet(project["requires-python"])
    facts = [Fact(what="python", found=python, required=str(required), fits=python in required)]
    ranges = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    return facts + [_fact(name, ranges[name], pinned.get(name, "")) for name in PACKAGES]


def _fact(name: str, required: SpecifierSet, tested: str) -> Fact:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Fact(what=name, found="absent", required=str(required), tested=tested, fits=False)
    fits = required.contains(found, prereleases=True)
    return Fact(what=name, found=found, required=str(required), tested=tested, fits=fits)


def _pinned(file: Path) -> dict[str, str]:
    """Return name -> the exact version that `make setup` installs."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        name, equals, number = line.partition("==")
        if equals:
            found[str(canonicalize_name(name.strip()))] = number.split(";")[0].strip()
    return found


def version_problems(facts: list[Fact]) -> Iterator[Finding]:
    """Find versions that the project does not work with."""
    for fact in facts:
        if not fact.fits:
            yield Finding(
                what=f"{fact.what} is {fact.found}; the project requires {fact.required}",
                remedy="install the tested versions with `make setup`",
            )


def hardware() -> list[Fact]:
    """Return cores, memory and the device that training would use."""
    memory = psutil.virtual_memory()
    cores = usable_cores()
    return [
        Fact(what="cores", found=f"{cores} of {os.cpu_count()}"),
        Fact(what="memory", found=f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"),
        Fact(what="training runs on", found=describe_device(TrainerOptions())),
    ]

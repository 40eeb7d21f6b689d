"""Versions against what the project asks for, and the hardware."""

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

ROOT = Path(__file__).parent.parent.parent

#: Packages whose versions decide what works and what numbers come out.
PACKAGES = ("torch", "lightning", "mlflow", "datasets", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A version, or a part of the machine.

    Args:
        what: its name.
        found: what there is.
        asked: the range that the project works with.
        tested: the version that it is tested with.
        fits: whether what there is lies in the range.
    """

    what: str
    found: str
    asked: str = ""
    tested: str = ""
    fits: bool = True


def versions(root: Path = ROOT) -> list[Fact]:
    """Python and the main packages, against `pyproject.toml` and `constraints.txt`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = _pinned(root / "constraints.txt")
    python = platform.python_version()
    asked = SpecifierSet(project["requires-python"])
    facts = [Fact(what="python", found=python, asked=str(asked), fits=python in asked)]
    ranges = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    return facts + [_fact(name, ranges[name], pinned.get(name, "")) for name in PACKAGES]


def _fact(name: str, asked: SpecifierSet, tested: str) -> Fact:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Fact(what=name, found="absent", asked=str(asked), tested=tested, fits=False)
    fits = asked.contains(found, prereleases=True)
    return Fact(what=name, found=found, asked=str(asked), tested=tested, fits=fits)


def _pinned(file: Path) -> dict[str, str]:
    """Name -> the exact version that `make setup` installs."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        name, equals, number = line.partition("==")
        if equals:
            found[str(canonicalize_name(name.strip()))] = number.split(";")[0].strip()
    return found


def version_problems(facts: list[Fact]) -> Iterator[Finding]:
    """Versions that the project does not work with."""
    for fact in facts:
        if not fact.fits:
            yield Finding(
                what=f"{fact.what} is {fact.found}, not {fact.asked}",
                remedy="`make setup` installs what is tested",
            )


def hardware() -> list[Fact]:
    """Cores, memory and what training would run on."""
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0))
    return [
        Fact(what="cores", found=f"{cores} of {os.cpu_count()}"),
        Fact(what="memory", found=f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"),
        Fact(what="training runs on", found=describe_device(TrainerOptions())),
    ]

"""The import direction: configs <- datamodules, modules <- pipeline; heavy libraries where they belong."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("datamodules", "modules", "pipeline")
FORBIDDEN = {
    "datamodules": {"modules", "pipeline", "hydra", "omegaconf", "mlflow"},
    "modules": {"datamodules", "pipeline", "hydra", "omegaconf", "mlflow", "datasets", "tokenizers"},
    "pipeline": set(),
}
LIGHTNING_BELOW = {"datamodules/datamodule.py", "modules/lit_module.py"}


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def imported_packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(ast.parse(file.read_text(encoding="utf-8")))}


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_against_the_direction(room: str) -> None:
    for file in files_of(room):
        assert not imported_packages(file) & FORBIDDEN[room], file


@pytest.mark.parametrize("room", ["datamodules", "modules"])
def test_lightning_is_imported_below_the_pipeline_in_two_files_only(room: str) -> None:
    users = {str(file.relative_to(ROOT)) for file in files_of(room) if "lightning" in imported_packages(file)}
    assert users <= LIGHTNING_BELOW


@pytest.mark.parametrize("room", ["datamodules", "modules"])
def test_nothing_below_the_pipeline_reads_the_environment(room: str) -> None:
    for file in files_of(room):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        reads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        ]
        assert not reads, file


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "helpers", "common", "misc", "manager", "handler"}
    for room in ROOMS:
        for file in files_of(room):
            assert not banned & set(file.relative_to(ROOT).with_suffix("").parts), file


def room_of(module: str) -> str:
    """The file or folder of `pipeline/` that a module lies in."""
    return module.split(".")[1] if "." in module else module


def arrows() -> dict[str, set[str]]:
    """Room -> rooms that its modules import when they are imported themselves."""
    found: dict[str, set[str]] = {}
    for file in files_of("pipeline"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        used = found.setdefault(room_of(module), set())
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipeline":
                names = [alias.name for alias in node.names] if node.module == "pipeline" else []
                used |= {*names} or {room_of(str(node.module))}
    return {room: used - {room, "pipeline"} for room, used in found.items()}


def test_no_import_between_the_rooms_of_the_pipeline_runs_in_a_circle() -> None:
    assert set(TopologicalSorter(arrows()).static_order()) >= {"config", "runs", "training", "stages"}


def test_the_page_on_the_architecture_has_every_package_with_what_it_imports() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    told = {room: set(re.findall(r"`(\w+)`", used)) for room, used in rows}
    folders = {path.parent.name for path in ROOT.glob("pipeline/*/__init__.py")}
    direct = {room: used & folders for room, used in arrows().items() if room in folders}

    def below(room: str) -> set[str]:
        return direct[room].union(*map(below, direct[room]))

    shortest = {
        room: {one for one in used if not any(one in below(other) for other in used)}
        for room, used in direct.items()
    }
    assert {room: told.get(room) for room in folders} == shortest


@pytest.mark.slow
def test_what_records_and_plans_is_imported_by_no_stage_and_stages_by_nothing_below() -> None:
    users = {room for room, used in arrows().items() if "stages" in used}
    assert users <= {"sweep", "plan", "__main__"}
    assert "plan" not in arrows()["stages"]

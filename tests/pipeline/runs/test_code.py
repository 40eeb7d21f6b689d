"""What counts as code: what a stage imports, without what people write for people."""

from pathlib import Path

import pytest

from pipeline.runs.code import ROOT, WITHOUT_EFFECT, code_of, targets_in


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of three rooms: a stage that imports one module of its own, which imports another."""
    for name, text in {
        "pipeline/__init__.py": "",
        "pipeline/stage.py": "def run():\n    from modules import layer\n    return layer.size\n",
        "pipeline/report.py": "def say(): ...\n",
        "modules/__init__.py": "",
        "modules/layer.py": "import torch\nfrom modules.norm import eps\n\nsize = 3\n",
        "modules/norm.py": '"""Norms."""\neps = 1e-5\n',
        "modules/other.py": "x = 1\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_code_is_what_is_imported_however_indirectly(project: Path) -> None:
    files = {name.removeprefix("code ") for name in code_of(["pipeline.stage"], root=project)}
    assert files == {
        *("pipeline/__init__.py", "pipeline/stage.py"),
        *("modules/__init__.py", "modules/layer.py", "modules/norm.py"),
    }


def test_a_change_of_code_changes_its_file_alone(project: Path) -> None:
    before = code_of(["pipeline.stage"], root=project)
    change(project / "modules" / "norm.py", "1e-5", "1e-6")
    after = code_of(["pipeline.stage"], root=project)
    assert {name for name in after if after[name] != before[name]} == {"code modules/norm.py"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("modules/norm.py", "Norms.", "Norms of layers."),
        ("modules/norm.py", "eps = 1e-5", "# small\neps = (1e-5)  # very"),
        ("modules/other.py", "x = 1", "x = 2"),
    ],
)
def test_docstrings_comments_layout_and_other_modules_do_not_count(
    project: Path, file: str, old: str, new: str
) -> None:
    before = code_of(["pipeline.stage"], root=project)
    change(project / file, old, new)
    assert code_of(["pipeline.stage"], root=project) == before


def test_modules_that_only_talk_do_not_count_nor_does_what_they_import(project: Path) -> None:
    before = code_of(["pipeline.stage"], root=project)
    (project / "pipeline" / "report.py").write_text("import modules.other\n")
    change(project / "pipeline" / "stage.py", "return", "from pipeline import report\n    return")
    assert set(code_of(["pipeline.stage"], root=project)) == set(before)


def test_a_task_is_code_of_its_own_fine_tuning_and_of_no_pretraining() -> None:
    qa = code_of(["pipeline.stages.finetune.stage", "pipeline.tasks.qa"])
    assert "code pipeline/tasks/qa/task.py" in qa
    pretraining = code_of(["pipeline.stages.pretrain.stage", "pipeline.tasks.causal_lm"])
    assert "code modules/lit_module.py" in pretraining
    assert not [name for name in pretraining if "qa" in name or "sweep" in name or "compare" in name]


def test_classes_are_found_wherever_a_configuration_names_them() -> None:
    node = {"_target_": "a.b.C", "inner": [{"_target_": "d.E"}], "x": {"y": {"_target_": "f.G"}}}
    assert list(targets_in(node)) == ["a.b", "d", "f"]


@pytest.mark.parametrize("module", WITHOUT_EFFECT)
def test_what_is_said_to_change_nothing_is_there(module: str) -> None:
    path = ROOT.joinpath(*module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

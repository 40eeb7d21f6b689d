"""The groups of the configuration, their options and the stages, read from the folder `configs/`."""

from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def groups() -> dict[str, list[str]]:
    """Return the configuration's groups and the options of each, by name."""
    folders = sorted(folder for folder in CONFIGS.iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def stage_titles() -> dict[str, str]:
    """Return a description of each stage: the first comment of its yaml."""
    files = sorted((CONFIGS / "stage").glob("*.yaml"))
    return {file.stem: _title_of(file) for file in files}


def _title_of(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    return next(line for line in lines if not line.startswith("# @package")).lstrip("# ")

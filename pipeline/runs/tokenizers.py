"""Find the run that trained a tokenizer, for the lineage of runs that use it."""

from pathlib import Path

from datamodules.errors import TokenizerError
from datamodules.tokenizer import Tokenizer
from pipeline.runs.folders import list_runs
from pipeline.runs.record import RunFolder
from pipeline.tracking.spool import Progress

TOKENIZER_FILE = "tokenizer.json"


def maker_of(tokenizer: Tokenizer, runs_dir: Path) -> RunFolder | None:
    """Return the newest finished run of `tokenizer` that trained this tokenizer, or None."""
    for run in list_runs(runs_dir):
        if run.is_of("tokenizer") and run.record.status == "FINISHED" and _made(run, tokenizer.digest):
            return run
    return None


def tokenizer_tags(run: RunFolder) -> dict[str, str]:
    """Return the lineage tags of the tokenizer's run: its name, and its id in the store if it has one."""
    run_id = Progress.load(run.path / "tracking").run_id
    return {"tokenizer_run": run.name, **({"tokenizer_run_id": run_id} if run_id else {})}


def _made(run: RunFolder, digest: str) -> bool:
    try:
        return Tokenizer.from_file(run.path / TOKENIZER_FILE).digest == digest
    except TokenizerError:
        return False  # deleted or damaged

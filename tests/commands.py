"""What the repository's Makefile would run, asked of `make` itself."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.variables import with_variables

ROOT = Path(__file__).parent.parent

#: Files that stand for the environment: taken as made, so that nothing is ever installed.
INSTALLED = ("-o", ".venv/.installed", "-o", ".venv/.installed-dev")

#: All that a fresh shell gives to `make`. A Makefile reads every variable of its environment, and a `make`
#: that runs these tests leaves its own there.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


def call_make(
    *words: str, folder: Path = ROOT, installed: Sequence[str] = INSTALLED
) -> subprocess.CompletedProcess[str]:
    """`make` with these words, as in a fresh shell; by default with the environment taken as installed."""
    environ = {key: os.environ[key] for key in KEPT if key in os.environ}
    return subprocess.run(
        ["make", *installed, *words], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def dry_run(words: Sequence[str]) -> list[list[str]]:
    """The words of each command that `make WORDS` would run; none is run."""
    done = call_make("-n", *words)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line]


#: In the place of `python -m pipeline`: what it is called with, and what the Makefile hands over.
RECORDER = (
    f"PIPELINE='{sys.executable}' -S -c "
    "'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))' --typed"
)


def pipeline_words(words: Sequence[str]) -> list[str] | None:
    """The stage and the overrides that `make WORDS` gives to the pipeline, or None; make really runs it."""
    (last, *_) = reversed(dry_run(words))
    if last[1:3] != ["-m", "pipeline"]:
        return None
    done = call_make(RECORDER, *words)
    assert done.returncode == 0, done.stderr
    arguments, environ = json.loads(done.stdout)
    return with_variables(arguments, environ)

"""The provenance of a run: code, versions, machine and command."""

import hashlib
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.tracking.redaction import Redactor

_PACKAGES = ("torch", "lightning", "datasets", "tokenizers", "mlflow", "numpy")
#: Suffixes of files that determine results: if git does not track one, it counts as a change; data does not.
_CODE = (b".py", b".yaml", b".toml", b"Makefile", b"constraints.txt")
#: Time limit for all git commands together, since the start of a run waits for them.
_GIT_LIMIT_S = 3.0


def collect_provenance(
    project_folder: Path, *, argv: Sequence[str], seed: int | None, redactor: Redactor
) -> dict[str, str]:
    """Collect everything needed to repeat a run, as text by name; takes about 20 ms."""
    facts = _git(project_folder)
    facts["python"] = platform.python_version()
    facts.update({name: found for name in _PACKAGES if (found := _package_version(name))})
    facts["platform"] = platform.platform()
    facts["cpu"] = _cpu_name()
    facts["gpu"] = _gpu_names()
    facts["command"] = redactor.command(_as_typed(argv))
    if seed is not None:
        facts["seed"] = str(seed)
    return facts


def _as_typed(argv: Sequence[str]) -> list[str]:
    """Replace the path of a module's `__main__.py` by the `python -m MODULE` that started it."""
    if not argv:
        return []
    program = Path(argv[0])
    start = ["python", "-m", program.parent.name] if program.name == "__main__.py" else ["python", argv[0]]
    return [*start, *argv[1:]]


def _git(folder: Path) -> dict[str, str]:
    deadline = time.monotonic() + _GIT_LIMIT_S
    commit = _run_git(folder, deadline, "rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": "none", "git_dirty": "unknown"}
    facts = {"git_commit": commit.decode().strip()}
    status = _run_git(
        folder, deadline, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"
    )
    if status is None:
        return {**facts, "git_dirty": "unknown"}
    lines = status.split(b"\0")[:-1]
    untracked = [line for line in lines if line.startswith(b"??") and line.endswith(_CODE)]
    changed = [line for line in lines if not line.startswith(b"??")]
    facts["git_dirty"] = str(bool(changed)).lower()
    facts["git_untracked_code"] = str(len(untracked))
    if changed or untracked:
        difference = _run_git(folder, deadline, "diff", "HEAD", "--binary") or b""
        facts["git_diff_sha256"] = hashlib.sha256(b"\n".join([*changed, *untracked, difference])).hexdigest()
    return facts


def _run_git(folder: Path, deadline: float, *arguments: str) -> bytes | None:
    left_s = max(0.0, deadline - time.monotonic())
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=left_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine()


def _gpu_names() -> str:
    """Return the GPUs listed by the driver, since querying torch would initialize CUDA in this process."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = []
    for file in found:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return ", ".join(names) or "none"

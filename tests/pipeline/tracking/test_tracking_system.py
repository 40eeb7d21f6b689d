"""The most memory that a process has had."""

import subprocess
import sys

from pipeline.tracking.system import peak_memory

PEAK = "from pipeline.tracking.system import peak_memory; print(*peak_memory().values())"


def peak_of(code: str) -> float:
    """Megabytes of another process."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def test_memory_that_was_given_back_counts() -> None:
    assert peak_of(f"x = bytearray(400_000_000); del x; {PEAK}") > 400


def test_what_the_starting_process_has_had_does_not_count() -> None:
    held = bytearray(400_000_000)
    assert peak_memory()["system/peak_memory_megabytes"] > len(held) / 1e6
    assert peak_of(PEAK) < 200

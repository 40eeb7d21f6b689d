"""Processes of trials: their share of the machine, their end, and how they are found again."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from pipeline.sweep.launch import Processes, ProcessJob, share
from tests.waiting import wait_until

SLEEPER = [sys.executable, "-S", "-c", "import signal, sys; print('ready', flush=True); signal.pause()"]


@pytest.fixture
def sleeper() -> Iterator[ProcessJob]:
    with psutil.Popen(SLEEPER, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield ProcessJob(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait(job: ProcessJob) -> None:
    wait_until(lambda: not job.is_running(), "the process has ended")


def test_a_process_runs_until_it_is_stopped_and_its_exit_code_is_known(sleeper: ProcessJob) -> None:
    assert sleeper.is_running()
    assert sleeper.exit_code is None
    sleeper.stop()
    wait(sleeper)
    assert sleeper.exit_code == -15
    sleeper.stop()  # once more does no harm


def test_a_process_is_found_again_by_its_number_and_its_beginning(sleeper: ProcessJob) -> None:
    launcher = Processes(1, os.environ)
    found = launcher.find(sleeper.handle)
    assert found is not None
    assert found.is_running()
    number, _, _ = sleeper.handle.partition("@")
    assert launcher.find(f"{number}@1.0") is None  # another process has got this number
    assert launcher.find("none") is None
    found.kill()
    wait(sleeper)
    assert not found.is_running()


@pytest.mark.parametrize(
    ("n_slots", "environ", "shares"),
    [
        (1, {}, [{}]),
        (2, {"CUDA_VISIBLE_DEVICES": ""}, [{}, {}]),
        (
            2,
            {"CUDA_VISIBLE_DEVICES": "4,5,6,7"},
            [{"CUDA_VISIBLE_DEVICES": "4,6"}, {"CUDA_VISIBLE_DEVICES": "5,7"}],
        ),
        (3, {"CUDA_VISIBLE_DEVICES": "0"}, [{"CUDA_VISIBLE_DEVICES": "0"}] * 3),
    ],
)
def test_gpus_are_shared_out_between_trials_at_once(
    n_slots: int, environ: dict[str, str], shares: list[dict[str, str]]
) -> None:
    environ = {**environ, "OMP_NUM_THREADS": "1"}
    assert [share(slot, n_slots, environ) for slot in range(n_slots)] == shares


def test_threads_are_shared_out_unless_the_user_has_set_them() -> None:
    cores = len(os.sched_getaffinity(0))
    assert share(0, 2, {"CUDA_VISIBLE_DEVICES": ""}) == {"OMP_NUM_THREADS": str(max(1, cores // 2))}
    assert share(0, 10 * cores, {"CUDA_VISIBLE_DEVICES": ""}) == {"OMP_NUM_THREADS": "1"}

"""One run on two hosts, which torchrun has started on both, and what happens when one of them is lost."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.runs.folders import list_runs
from tests.e2e.conftest import Outcome
from tests.e2e.hosts import Host, tree_of, two_hosts, why_no_hosts
from tests.e2e.test_torchrun import LONG, ROOT, SPOOLED, WORDS, losses, start
from tests.waiting import LIMIT_S, wait_until

#: What is run instead of the pipeline where a test waits until it gives a host up.
IMPATIENT = (str(ROOT / "tests" / "e2e" / "impatient.py"),)

Commands = tuple["subprocess.Popen[str]", "subprocess.Popen[str]"]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[Host]]:
    """Two hosts, with this folder as the working folder."""
    if why := why_no_hosts():
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)
    with two_hosts(tmp_path) as both:
        yield both


@pytest.fixture
def words(text_file: Path) -> tuple[str, ...]:
    """Of any run of these tests."""
    return ("pretrain", "data=files", f"data.train={text_file}", "schedule=constant", *WORDS, "name=two")


def on_both(hosts: Sequence[Host], *words: str, program: Sequence[str] = ("-m", "pipeline")) -> Commands:
    """The same torchrun on both hosts, with one process each."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0].name}:29500")
    north, south = (start(Path.cwd(), *host.on(*torchrun, *meeting, *program, *words)) for host in hosts)
    return north, south


def outputs(commands: Commands) -> tuple[str, str]:
    """What each command has said at its end."""
    north, south = (command.communicate(timeout=LIMIT_S)[1] for command in commands)
    return north, south


def training(commands: Commands) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes of each host, once there is a checkpoint."""
    saved = Path("runs/two/checkpoints/last.ckpt")
    wait_until(saved.exists, "the run has saved a checkpoint", process=commands[0])
    return tree_of(commands[0]), tree_of(commands[1])


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if the one that started it does not know yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def resumed(hosts: Sequence[Host], *words: str) -> None:
    """Resume the run on both hosts, for a moment."""
    commands = on_both(hosts, *words, "resume=two", "trainer.time_budget_s=0.5")
    said = outputs(commands)
    assert [command.returncode for command in commands] == [0, 0], said
    assert "(resumed)" in said[0]
    assert [(one.name, one.record.status) for one in list_runs(Path("runs"))] == [("two", "FINISHED")]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_hosts_make_one_run_with_the_losses_of_one_process(
    strategy: str, hosts: Sequence[Host], words: tuple[str, ...], run: Callable[..., Outcome]
) -> None:
    words = (*words, *SPOOLED, "trainer.log_every_steps=1")
    commands = on_both(hosts, *words, f"trainer.strategy={strategy}")
    said = outputs(commands)
    assert [command.returncode for command in commands] == [0, 0], said
    assert [(one.name, one.record.status) for one in list_runs(Path("runs"))] == [("two", "FINISHED")]
    assert said[0].count("two: done") == 1
    assert "two" not in said[1]
    assert run(*words, "name=one", "trainer.batch_size=8").code == 0
    of_one = losses(Path("runs/one"))
    assert len(of_one) == 20
    assert losses(Path("runs/two")) == pytest.approx(of_one, rel=1e-5)


@pytest.mark.slow
def test_a_host_that_loses_its_power_is_named_and_the_run_can_be_resumed(
    hosts: Sequence[Host], words: tuple[str, ...]
) -> None:
    commands = on_both(hosts, *words, *LONG)
    on_north, on_south = training(commands)
    for one in on_south:
        one.kill()
    said, _ = outputs(commands)
    assert commands[0].returncode == 1
    assert "nothing is heard any more from process 1 of 2 (on south)" in said
    assert not psutil.wait_procs(on_north, timeout=LIMIT_S)[1]
    resumed(hosts, *words, *LONG)


@pytest.mark.slow
def test_hosts_without_a_connection_end_both_and_name_each_other(
    hosts: Sequence[Host], words: tuple[str, ...]
) -> None:
    commands = on_both(hosts, *words, *LONG, program=IMPATIENT)
    on_north, on_south = training(commands)
    hosts[0].pull_cable()
    wait_until(lambda: all(map(has_ended, on_south[1:])), "the process on south has ended")
    commands[1].kill()  # torchrun itself waits for the other host as long as the kernel does
    north, south = outputs(commands)
    assert commands[0].returncode == 1
    assert "error: for 5 s, nothing was heard from process 1 of 2 (on south)" in north
    assert "error: for 5 s, nothing was heard from process 0 of 2 (on north), through the store" in south
    assert not psutil.wait_procs([*on_north, *on_south], timeout=LIMIT_S)[1]
    assert [one.record.status for one in list_runs(Path("runs"))] == ["FAILED"]


@pytest.mark.slow
def test_a_run_folder_that_is_not_shared_is_refused_on_both_hosts(
    hosts: Sequence[Host], words: tuple[str, ...]
) -> None:
    Path("runs").mkdir()
    hosts[1].unshare(Path("runs").absolute())
    commands = on_both(hosts, *words, "tracking=off")
    for said in outputs(commands):
        assert "two, which process 0 has created, is not on this machine" in said
        assert "runs_dir=PATH" in said
    assert [command.returncode for command in commands] == [1, 1]

"""The processes of one run agree on it before there is a run, or say why they do not."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import DistNetworkError, HashStore  # type: ignore[attr-defined]

from pipeline import processes, rendezvous
from pipeline.errors import ConfigError, RunError
from pipeline.machine.devices import count_devices, devices_and_nodes
from pipeline.machine.options import TrainerOptions
from pipeline.rendezvous import Rendezvous, RendezvousError

FACTS = {"trainer.max_steps": 20, "size.d_model": 32, "code pipeline/a.py": "abc"}

Pair = tuple[Rendezvous, Rendezvous]


@pytest.fixture
def pair() -> Pair:
    """Both processes of a run of two."""
    return pair_on("a", "a")


def pair_on(first_host: str, other_host: str) -> Pair:
    store = HashStore()
    return (
        Rendezvous(store, rank=0, n_ranks=2, host=first_host),
        Rendezvous(store, rank=1, n_ranks=2, host=other_host),
    )


def beside(call: Callable[[], object]) -> Callable[[], object]:
    """Call it in a thread; what is given waits for the end and returns or raises as it did."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(call())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> object:
        thread.join(20)
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    return result


def test_the_first_process_makes_the_run_and_the_others_get_its_folder(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    joined = beside(lambda: pair[1].join(FACTS))
    assert pair[0].join(FACTS) is None
    pair[0].share(tmp_path)
    assert joined() == tmp_path


def test_processes_with_another_configuration_or_code_are_refused_with_the_difference(pair: Pair) -> None:
    other = {**FACTS, "trainer.max_steps": 30, "code pipeline/a.py": "def", "name": "x"}
    joined = beside(lambda: pair[1].join(other))
    with pytest.raises(RunError) as refused:
        pair[0].join(FACTS)
    for difference in (
        "process 1 of 2",
        "trainer.max_steps is 20, not 30",
        "code pipeline/a.py is abc, not def",
        "name is nothing, not x",
    ):
        assert difference in refused.value.sentence
    assert "size.d_model" not in refused.value.sentence
    assert pair[0].fail(refused.value)
    with pytest.raises(SystemExit, match="2"):  # the first has said it
        joined()


def test_a_process_that_fails_lets_the_first_say_so(pair: Pair) -> None:
    has_to_print = beside(lambda: pair[1].fail(RunError("its disk is full", "", "make room")))
    with pytest.raises(RunError, match=r"process 1 of 2 \(on a\) has failed: its disk is full") as refused:
        pair[0].join(FACTS)
    assert refused.value.remedy == "make room"
    pair[0].fail(refused.value)
    assert has_to_print() is False


def test_on_another_machine_a_process_reports_too_why_the_first_or_itself_has_failed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first, other = pair_on("a", "b")
    joined = beside(lambda: other.join(FACTS))
    first.fail(RunError("its disk is full", "", "make room"))
    with pytest.raises(SystemExit, match="2"):
        joined()
    assert "error: process 0 (on a) has failed: its disk is full\nhint: make room\n" in capfd.readouterr().err
    first, other = pair_on("a", "b")
    has_to_print = beside(lambda: other.fail(RunError("its disk is full", "", "make room")))
    with pytest.raises(RunError, match=r"process 1 of 2 \(on b\)") as refused:
        first.join(FACTS)
    first.fail(refused.value)
    assert has_to_print() is True


def test_a_process_that_does_not_come_and_a_folder_that_is_not_shared_end_the_wait(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAITS_S", "OTHERS_WAIT_S", "LET_REPORT_S"):
        monkeypatch.setattr(rendezvous, name, 0.1)
    with pytest.raises(RunError, match="process 1 of 2 has not joined within"):
        pair[0].join(FACTS)
    with pytest.raises(RunError, match="process 0 has not created the run"):
        pair[1].join(FACTS)
    monkeypatch.setattr(rendezvous, "OTHERS_WAIT_S", 10)
    blind = beside(lambda: pair[1].join(FACTS))
    with pytest.raises(RunError, match="process 1 of 2 has not joined within"):
        pair[0].share(tmp_path)
    with pytest.raises(RunError, match="is not on this machine") as unseen:
        blind()
    pair[1].fail(unseen.value)
    with pytest.raises(RunError, match=r"process 1 of 2 \(on a\) has failed: .* is not on this machine"):
        pair[0].share(tmp_path)


def test_a_first_process_that_does_not_come_ends_the_wait_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rendezvous.wait_for_store("127.0.0.1", port, 0.2)
    with pytest.raises(RunError, match=f"port {port}, cannot be reached: Connection refused for 0 s") as late:
        rendezvous.wait_for_store("127.0.0.1", port, 0.2)
    assert "check that process 0 was started" in late.value.remedy


def test_a_store_that_is_lost_during_the_rendezvous_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(HashStore):
        def set(self, *_: object) -> None:
            raise DistNetworkError("Connection was likely closed")

    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    process = Rendezvous(Lost(), rank=1, n_ranks=2, host="a")
    with pytest.raises(RendezvousError, match="node1, port 29500, cannot be reached: Connection was likely"):
        process.join(FACTS)


def test_tasks_of_srun_are_numbered_as_torchrun_numbers_its_processes() -> None:
    slurm = {
        "SLURM_JOB_ID": "1234567",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
    }
    environ = dict(slurm)
    processes.adopt_slurm(environ)
    assert processes.count_launched(environ) == 8
    assert processes.count_launched_here(environ) == 4
    assert processes.rank(environ) == 5
    wanted = {"MASTER_ADDR": "gpu03", "MASTER_PORT": "19567", "LOCAL_RANK": "1", "GROUP_RANK": "1"}
    assert wanted.items() <= environ.items()
    single = {**slurm, "SLURM_STEP_NUM_TASKS": "1"}
    processes.adopt_slurm(single)
    assert processes.count_launched(single) == 1
    assert "RANK" not in single
    with pytest.raises(RunError, match="3 tasks on 2 nodes"):
        processes.adopt_slurm({**slurm, "SLURM_STEP_NUM_TASKS": "3"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,07],big1", "gpu03"),
        ("a1,b2", "a1"),
        ("n[7]", "n7"),
        ("r[1-2]c,x", "r1c"),
        ("host-1", "host-1"),
    ],
)
def test_the_first_node_of_a_list_of_slurm(nodes: str, first: str) -> None:
    assert processes.first_node(nodes) == first


def test_as_many_devices_as_processes_that_were_started_and_these_for_training_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert devices_and_nodes(TrainerOptions(accelerator="cpu")) == (2, 2)
    assert count_devices(TrainerOptions(accelerator="cpu", devices=4)) == 4
    with pytest.raises(ConfigError, match=r"trainer\.devices=3, but 4 processes were started"):
        count_devices(TrainerOptions(accelerator="cpu", devices=3))
    with pytest.raises(RunError, match="4 processes were started for evaluate"):
        processes.refuse_several("evaluate")

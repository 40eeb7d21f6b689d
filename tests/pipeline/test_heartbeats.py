"""Processes of a run notice which of the others are not there any more."""

import pytest
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from pipeline.errors import RunError
from pipeline.heartbeats import MOST_PER_ROUND_S, SILENT_S, Heartbeats

#: Rounds after which a process has been silent too long.
ENOUGH = int(SILENT_S / MOST_PER_ROUND_S) + 1


class Machines:
    """Three processes, each on its machine, and the errors that end them."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.has_network = True
        self.errors: list[RunError] = []
        self.each = [
            Heartbeats(
                self._connect, address="10.0.0.1, port 29500", rank=rank, n_ranks=3, host=f"node{rank}"
            )
            for rank in range(3)
        ]

    def _connect(self) -> Store:
        if not self.has_network:
            raise RunError("the store of the run cannot be reached", "", "")
        return self._store

    def beat(self, *ranks: int, rounds: int = ENOUGH) -> None:
        for _ in range(rounds):
            for rank in ranks:
                self.each[rank].beat()
            for rank in ranks:
                self.each[rank].watch(MOST_PER_ROUND_S)


@pytest.fixture
def machines() -> Machines:
    begun = Machines()
    begun.beat(0, 1, 2, rounds=2)
    return begun


def test_processes_that_beat_go_on(machines: Machines) -> None:
    with machines.each[0].watching(machines.errors.append), machines.each[1].watching(machines.errors.append):
        machines.beat(0, 1, 2)
    assert machines.errors == []
    assert machines.each[0].silent() is None


def test_the_first_process_ends_with_the_name_of_one_that_is_silent(machines: Machines) -> None:
    with machines.each[0].watching(machines.errors.append):
        machines.beat(0, 1, rounds=ENOUGH - 2)
        assert machines.errors == []
        machines.beat(0, 1, rounds=2)
    assert "for 120 s, nothing was heard from process 2 of 3 (on node2)" in machines.errors[0].sentence
    assert "resume=true" in machines.errors[0].remedy


def test_the_others_end_if_the_first_process_is_silent_or_cannot_be_reached(machines: Machines) -> None:
    with machines.each[1].watching(machines.errors.append):
        machines.beat(1, 2)
    assert "for 120 s, nothing was heard from process 0 of 3 (on node0)" in machines.errors[0].sentence


def test_a_store_that_cannot_be_reached_or_does_not_answer_is_named(machines: Machines) -> None:
    cut = Machines()
    cut.has_network = False
    with cut.each[1].watching(cut.errors.append):
        cut.beat(1)
    assert "process 0 of 3, through the store of the run at 10.0.0.1, port 29500" in cut.errors[0].sentence
    with machines.each[1].watching(machines.errors.append):
        for _ in range(ENOUGH):
            machines.each[1].watch(MOST_PER_ROUND_S)  # a beat hangs in the store
    assert "process 0 of 3 (on node0), through the store of the run at" in machines.errors[0].sentence


def test_of_processes_that_became_silent_one_after_the_other_the_first_is_named(machines: Machines) -> None:
    machines.beat(0, 1, rounds=2)
    machines.beat(0, rounds=2)
    assert machines.each[0].silent() == "process 2 of 3 (on node2)"
    machines.beat(0, 1, 2, rounds=2)
    machines.beat(0, rounds=2)
    assert machines.each[0].silent() == "processes 1, 2 of 3 (on node1, node2)"


def test_a_process_that_has_left_training_is_not_expected_to_be_heard(machines: Machines) -> None:
    with machines.each[2].watching(machines.errors.append):
        pass
    with machines.each[0].watching(machines.errors.append):
        machines.beat(1, 2, rounds=1)
        machines.beat(0, 1)
    assert machines.errors == []

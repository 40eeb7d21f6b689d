"""The driver: trials are started, watched, pruned, taken, resumed."""

import math
import os
import signal
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, Stopped
from pipeline.sweep.launch import Work
from pipeline.sweep.study import JOURNAL
from tests.pipeline.sweep.scripted import Listener, Script, ScriptedLauncher, run_sweep, value_of


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def by_seed(work: Work) -> Script:
    """The loss is the seed."""
    return Script(losses=[float(value_of(work, "seed"))])


def test_a_grid_runs_in_the_order_typed_and_the_best_comes_first() -> None:
    swept = run_sweep(by_seed, "seed=3,1,2")
    assert [values["seed"] for values in swept.listener.begun] == ["3", "1", "2"]
    assert [(one.number, one.value, one.state) for one in swept.results] == [
        (1, 1.0, "done"), (2, 2.0, "done"), (0, 3.0, "done"),
    ]  # fmt: skip


def test_the_largest_is_the_best_where_the_metric_is_to_grow() -> None:
    def script(work: Work) -> Script:
        return Script(metrics={"val/accuracy": float(value_of(work, "seed"))})

    swept = run_sweep(script, "seed=3,1,2", metric="val/accuracy")
    assert [one.value for one in swept.results] == [3.0, 2.0, 1.0]


def test_each_trial_is_a_run_of_its_own_tied_by_tags() -> None:
    works = run_sweep(by_seed, "seed=3,1").launcher.started
    assert [work.folder.name for work in works] == ["sweep-1-00-seed-3", "sweep-1-01-seed-1"]
    for number, work in enumerate(works):
        assert value_of(work, "++tracking.tags.sweep_id") == "'sweep-1'"
        assert value_of(work, "++tracking.tags.sweep_trial") == f"'{number}'"
        assert value_of(work, "name") == f"'{work.folder.name}'"
        assert "--json" in work.command()


def test_an_impossible_value_fails_without_a_process_and_the_sweep_goes_on() -> None:
    swept = run_sweep(by_seed, "seed=1,-1,2")
    assert [value_of(work, "seed") for work in swept.launcher.started] == ["1", "2"]
    failed = swept.by_number()[1]
    assert failed.state == "failed"
    assert "seed: -1 is not a valid value" in str(failed.reason)
    assert swept.listener.states == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_trial_that_fails_is_recorded_with_what_it_said() -> None:
    def script(work: Work) -> Script:
        return Script(error="the loss is not finite at step 3") if value_of(work, "seed") == "2" else Script()

    swept = run_sweep(script, "seed=1,2,3")
    assert [one.state for one in swept.by_number()] == ["done", "failed", "done"]
    assert swept.by_number()[1].reason == "the loss is not finite at step 3"


def test_a_metric_that_is_no_number_is_a_failure() -> None:
    def script(work: Work) -> Script:
        return Script(metrics={"val/accuracy": math.nan if value_of(work, "seed") == "1" else 0.5})

    swept = run_sweep(script, "seed=1,2", metric="val/accuracy")
    assert [one.state for one in swept.by_number()] == ["failed", "done"]


@pytest.mark.parametrize("metric", ["val/los", "test/los"])
def test_an_unknown_metric_is_told_by_the_first_trial_with_those_that_there_are(metric: str) -> None:
    launcher = ScriptedLauncher(lambda work: Script(metrics={"test/loss": 1.0}))
    with pytest.raises(ConfigError, match="is not a metric of the trials") as caught:
        run_sweep(by_seed, "seed=1,2", launcher=launcher, metric=metric)
    assert f"did you mean {metric}s?" in str(caught.value)
    assert len(launcher.started) == 1


@pytest.mark.slow
def test_trials_worse_than_the_median_at_a_validation_are_stopped_and_called_pruned() -> None:
    def script(work: Work) -> Script:
        seed = float(value_of(work, "seed"))
        return Script(losses=[seed, seed, seed], never_ends=seed > 5)

    swept = run_sweep(script, "seed=1,2,9,3", prune=True, prune_after=2)
    assert [one.state for one in swept.by_number()] == ["done", "done", "pruned", "pruned"]
    assert swept.by_number()[2].value == 9.0
    assert swept.results[0].value == 1.0


@pytest.mark.slow
def test_nothing_is_pruned_where_nobody_asked_for_it() -> None:
    swept = run_sweep(by_seed, "seed=1,2,9,3", prune_after=1)
    assert {one.state for one in swept.results} == {"done"}


@pytest.mark.slow
def test_several_trials_run_at_once_each_in_a_place_of_its_own() -> None:
    swept = run_sweep(lambda work: Script(losses=[1.0, 1.0]), "seed=1,2,3,4,5", parallel=3)
    assert max(swept.listener.n_running) == 3
    assert set(swept.launcher.slots) == {0, 1, 2}
    assert len(swept.results) == 5


@pytest.mark.parametrize(
    ("sampler", "trials"), [("random", 5), pytest.param("optuna", 14, marks=pytest.mark.slow)]
)
def test_drawn_trials_are_the_same_in_a_sweep_that_was_cut_and_resumed(sampler: str, trials: int) -> None:
    def script(work: Work) -> Script:
        return Script(losses=[abs(float(value_of(work, "optimizer.lr")) - 0.003)])

    words = ("optimizer.lr=tag(log, interval(1e-4,1e-1))", "size=nano,tiny")
    options = {"sampler": sampler, "prune": False}
    whole = run_sweep(script, *words, folder=Path("runs/whole"), trials=trials, **options)
    run_sweep(script, *words, folder=Path("runs/cut"), trials=2, **options)
    resumed = run_sweep(script, *words, folder=Path("runs/cut"), trials=trials, **options)
    assert [one.values for one in resumed.by_number()] == [one.values for one in whole.by_number()]
    assert len({one.values["optimizer.lr"] for one in whole.results}) == trials
    assert all(1e-4 <= float(one.values["optimizer.lr"]) <= 1e-1 for one in whole.results)


def test_a_setting_that_was_drawn_before_is_not_trained_twice() -> None:
    swept = run_sweep(by_seed, "seed=1,2", sampler="random", trials=6)
    assert len(swept.launcher.started) == 2
    assert len(swept.results) == 6
    assert {one.run for one in swept.results} == {work.folder.name for work in swept.launcher.started}
    assert "the same as trial" in str(swept.by_number()[5].reason)


class Interrupting(Listener):
    """Presses Ctrl-C while the second trial runs."""

    def looked(self, running: int) -> None:
        super().looked(running)
        if running and len(self.begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_stops_the_trials_in_order_and_the_sweep_goes_on_with_the_missing_ones() -> None:
    def script(work: Work) -> Script:
        return Script(losses=[float(value_of(work, "seed"))] * 3)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped):
        run_sweep(script, "seed=1,2,3", listener=Interrupting())
    assert signal.getsignal(signal.SIGINT) == before
    stopped = Path("runs/sweep-1-01-seed-2")
    assert '"KILLED"' in (stopped / "run.json").read_text()
    (stopped / "checkpoints").mkdir()
    (stopped / "checkpoints" / "last.ckpt").touch()
    swept = run_sweep(script, "seed=1,2,3")
    assert [value_of(work, "seed") for work in swept.launcher.started] == ["2", "3"]
    assert swept.launcher.started[0].folder == stopped
    assert "resume='sweep-1-01-seed-2'" in swept.launcher.started[0].command()
    assert "resume" not in " ".join(swept.launcher.started[1].command())
    assert swept.listener.resumed == [1]
    assert {one.state for one in swept.results} == {"done"}


@pytest.mark.slow
def test_a_trial_that_was_stopped_before_its_first_checkpoint_begins_anew_in_a_folder_of_its_own() -> None:
    with pytest.raises(Stopped):
        run_sweep(lambda work: Script(never_ends=True), "seed=1,2", listener=Interrupting(), parallel=2)
    swept = run_sweep(by_seed, "seed=1,2")
    assert [work.folder.name for work in swept.launcher.started] == [
        "sweep-1-00-seed-1-2",
        "sweep-1-01-seed-2-2",
    ]


class Killed(Listener):
    """Dies, as by kill -9, while the second trial runs: nothing is stopped, nothing is told."""

    def looked(self, running: int) -> None:
        if running and len(self.begun) == 2:
            raise MemoryError


@pytest.mark.slow
def test_a_trial_that_a_killed_sweep_left_at_work_is_waited_for_and_not_started_again() -> None:
    launcher = ScriptedLauncher(lambda work: Script(losses=[float(value_of(work, "seed"))] * 3))
    with pytest.raises(MemoryError):
        run_sweep(by_seed, "seed=1,2,3", launcher=launcher, listener=Killed())
    left = launcher.jobs["sweep-1-01-seed-2"]
    left._stopped = False  # a killed sweep stops nothing
    left._record("RUNNING")
    swept = run_sweep(by_seed, "seed=1,2,3", launcher=launcher)
    assert [value_of(work, "seed") for work in launcher.started] == ["1", "2", "3"]
    assert [one.value for one in swept.by_number()] == [1.0, 2.0, 3.0]


def test_half_a_line_and_a_lock_that_a_kill_left_in_the_journal_do_no_harm() -> None:
    run_sweep(by_seed, "seed=1,2", sampler="random", trials=1)
    journal = Path("runs/sweep-1") / JOURNAL
    with journal.open("a") as file:
        file.write('{"op_code":4,"wor')
    journal.with_name(f"{JOURNAL}.lock").symlink_to(journal)
    swept = run_sweep(by_seed, "seed=1,2", sampler="random", trials=3)
    assert len(swept.results) == 3

"""The options of training: which device and precision they lead to, and which are refused."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from modules import hardware
from pipeline.config.compose import compose
from pipeline.errors import ConfigError
from pipeline.machine.devices import choose_precision, describe_device
from pipeline.machine.options import TrainerOptions
from pipeline.training.label import label_of
from pipeline.training.trainer import PRECISIONS, build_trainer

on_cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_is_asked_for_is_taken(precision: str) -> None:
    options = TrainerOptions(accelerator="cpu", precision=precision, max_steps=1)  # type: ignore[arg-type]
    assert choose_precision(options) == precision
    assert build_trainer(options).precision == PRECISIONS[options.precision]  # type: ignore[index]


@pytest.mark.parametrize(("speedup", "precision"), [(3.9, "bf16"), (0.8, "fp32"), (0.02, "fp32")])
def test_auto_takes_bf16_exactly_where_the_cpu_was_measured_to_be_much_faster_in_it(
    speedup: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "bf16_speedup_on_cpu", lambda: speedup)
    assert choose_precision(TrainerOptions(accelerator="cpu")) == precision


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(
        ConfigError,
        match=r"fp16 is not supported on a CPU; expected fp32 or bf16\nhint: use trainer.precision=",
    ):
        choose_precision(TrainerOptions(accelerator="cpu", precision="fp16"))


@on_cpu_only
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer.accelerator=gpu, but PyTorch finds no usable GPU"):
        describe_device(TrainerOptions(accelerator="gpu"))


def test_the_device_is_told_with_its_precision() -> None:
    told = describe_device(TrainerOptions(accelerator="cpu", precision="fp32"))
    assert told.startswith(f"CPU, {torch.get_num_threads()} of ")
    assert told.endswith(", fp32")


@pytest.mark.parametrize(
    ("options", "interval"),
    [
        (TrainerOptions(max_steps=1), 1),
        (TrainerOptions(max_steps=1000, val_every_steps=7), 7),
        (TrainerOptions(max_steps=5, val_every_steps=100), 5),
    ],
)
def test_a_run_is_validated_as_asked_and_at_least_once(options: TrainerOptions, interval: int) -> None:
    assert options.val_interval_steps == interval
    assert options.checkpoint_interval_steps == interval


def test_a_checkpoint_may_have_an_interval_of_its_own() -> None:
    assert TrainerOptions(checkpoint_every_steps=3).checkpoint_interval_steps == 3


def test_lightning_counts_batches_between_validations_where_we_count_steps() -> None:
    trainer = build_trainer(
        TrainerOptions(accelerator="cpu", max_steps=100, val_every_steps=10, accumulate=4)
    )
    assert trainer.val_check_interval == 10 * 4
    assert trainer.max_steps == 100


@pytest.mark.parametrize(
    ("stage", "words", "label"),
    [
        ("pretrain", [], "causal_lm"),
        ("pretrain", ["task=masked_lm", "size=small"], "masked_lm-small"),
        ("pretrain", ["position=alibi", "trainer.max_steps=5"], "causal_lm-alibi"),
        ("finetune", ["task=qa", "init_from=base", "optimizer=adamw"], "qa-adamw"),
        ("finetune", ["task=qa", "init_from=none", "size=small"], "qa-small"),
        (
            "finetune",
            ["task=classify", "data=files", "data.train=my/film reviews.v2.csv"],
            "classify-film_reviews",
        ),
        ("finetune", ["task=classify", "data=files", "data.train=[a.csv,b.csv]"], "classify-a"),
        ("finetune", ["task=classify", "data=imdb"], "classify-imdb"),
    ],
)
def test_a_trainings_name_begins_with_its_task_and_what_was_chosen(
    stage: str, words: list[str], label: str
) -> None:
    assert label_of(compose(stage, words)) == label


def test_ranks_left_by_a_launcher_or_a_cloud_do_not_make_the_run_wait_for_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "LOCAL_RANK": "0",
        "NODE_RANK": "1",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "gpu03",
    }.items():
        monkeypatch.setenv(name, value)
    strategy = build_trainer(TrainerOptions(accelerator="cpu", devices=2, max_steps=1)).strategy
    assert isinstance(strategy, DDPStrategy)
    launcher = strategy.cluster_environment
    assert launcher is not None
    assert not launcher.creates_processes_externally
    assert launcher.main_address == "127.0.0.1"
    assert strategy.node_rank == 0

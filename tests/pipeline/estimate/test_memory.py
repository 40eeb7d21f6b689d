"""Predicted memory: what a real step allocates, what torch's own tracker counts, and what sharing leaves."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile

from modules.model import Model
from modules.optim import LearningRates
from modules.recompute import Recompute
from modules.transformer import Transformer, set_recompute
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_head
from pipeline.estimate.live_bytes import LiveBytes
from pipeline.estimate.memory import Footprint, footprint
from pipeline.estimate.rows import step_of
from pipeline.estimate.trace import BACKWARD_BEGINS, FORWARD, PARTS, Peaks, Step, trace, traced
from pipeline.machine.options import TrainerOptions

SMALL = ("size.d_model=64", "size.n_heads=4", "size.max_seq_len=128", "tokenizer.vocab_size=1000")


def step(*words: str, on_gpu: bool = False) -> Step:
    config = compose("estimate", [*SMALL, "trainer.precision=fp32", *words])
    return step_of(config, construct(config.trainer, TrainerOptions), on_gpu=on_gpu, is_here=True)


def build(step: Step) -> tuple[Model, torch.optim.Optimizer]:
    backbone = construct(step.model["backbone"], Transformer, vocab_size=step.vocab_size)
    model = Model(backbone, build_head(step.model["head"], backbone))
    return model, construct(step.optimizer, LearningRates).build(model)


def update(step: Step, model: Model, optimizer: torch.optim.Optimizer, batch: Mapping[str, Tensor]) -> None:
    """A step in the order in which a training takes it."""
    enabled = step.precision == "bf16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        total, n_tokens = step.loss(model, batch)
    (total / n_tokens).backward()
    del total
    optimizer.step()
    optimizer.zero_grad()


def measured_bytes(step: Step, n_rows: int, recompute: Recompute, folder: Path) -> float:
    """The peak of a real step by torch's allocator, of which its profiler tells: also what kernels need.

    What was there before, weights and the optimizer's states, is counted by their sizes.
    """
    model, optimizer = build(step)
    set_recompute(model, recompute)
    batch = step.batch(n_rows)
    update(step, model, optimizer, batch)
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = [*model.parameters(), *batch.values(), *states]
    before = sum(tensor.untyped_storage().nbytes() for tensor in held if isinstance(tensor, Tensor))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        update(step, model, optimizer, batch)
    profiled.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    moves = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    )
    alive = most = 0.0
    for _, n_bytes in moves:
        alive += n_bytes
        most = max(most, alive)
    return before + most


@pytest.mark.parametrize(
    ("words", "n_rows", "recompute"),
    [
        (["size.n_layers=6"], 16, "none"),
        (["size.n_layers=6", "optimizer=adamw", "model=gpt2"], 16, "full"),
        pytest.param(["size.n_layers=5", "task=denoise"], 12, "selective", marks=pytest.mark.slow),
    ],
)
def test_the_predicted_peak_is_what_torch_allocates_in_a_real_step_within_five_percent(
    words: list[str], n_rows: int, recompute: Recompute, tmp_path: Path
) -> None:
    planned = step(*words)
    peaks = trace(planned, n_rows=n_rows, recompute=recompute)
    predicted = max(sum(kinds.values()) for kinds in peaks.parts.values())
    assert predicted == pytest.approx(measured_bytes(planned, n_rows, recompute, tmp_path), rel=0.05)


@pytest.mark.parametrize(
    ("words", "recompute"),
    [
        (["optimizer=adamw"], "none"),
        (["optimizer=muon"], "full"),
        pytest.param(["task=denoise"], "none", marks=pytest.mark.slow),
    ],
)
def test_memory_is_linear_in_depth_part_by_part(words: list[str], recompute: Recompute) -> None:
    planned = step(*words, "size.n_layers=6", "trainer.precision=bf16", on_gpu=True)
    along = trace(planned, n_rows=4, recompute=recompute)
    direct = traced(planned, n_layers=6, n_rows=4, recompute=recompute)
    for part in PARTS:
        assert sum(along.parts[part].values()) == pytest.approx(sum(direct.parts[part].values()), rel=1e-3)


@pytest.mark.slow
def test_bytes_alive_are_those_that_torchs_own_tracker_counts() -> None:
    """It takes no module that is called twice, as a head that is more than one product is."""
    planned = step("size.n_layers=2", "size.max_seq_len=64", "optimizer=adamw")
    rows = planned.batch(4)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model, optimizer = build(planned)
        batch = {key: fake.from_tensor(value) for key, value in rows.items()}
        update(planned, model, optimizer, batch)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *batch.values())
        with tracker:
            update(planned, model, optimizer, batch)
        (peak,) = (
            snapshot["Total"]
            for device, snapshot in tracker.get_tracker_snapshot("peak").items()
            if device.type == "cpu"
        )
    ours = traced(planned, n_layers=2, n_rows=4)
    assert max(sum(kinds.values()) for kinds in ours.parts.values()) == pytest.approx(peak, rel=1e-3)


def test_a_tensor_is_counted_until_it_is_gone() -> None:
    live = LiveBytes()
    with live, live.part("x", "activations"):
        kept = torch.zeros(100)
        torch.zeros(1000) + 1  # two at once
        del kept
        torch.zeros(50)
    assert live.peaks["x"]["activations"] == 4 * (100 + 2000)


def footprint_of(parts: Mapping[str, float]) -> Footprint:
    kinds = {
        part: {"parameters": 80.0, "gradients": 80.0, "optimizer": 160.0, "activations": parts[part]}
        for part in PARTS
    }
    return Footprint(
        n_rows=4,
        peaks=Peaks(kinds),  # type: ignore[arg-type]
        per_row=dict.fromkeys(PARTS, 10.0),
        layer_bytes=8.0,
        root_bytes=16.0,
        cast_share=0.5,
    )


def test_sharing_leaves_what_the_sources_say() -> None:
    """Rajbhandari et al. 2020, section 5: 16 devices, 80 + 80 + 160 bytes of states, 40 of activations."""
    lone = footprint_of(dict.fromkeys(PARTS, 40.0))
    total = {
        strategy: sum(lone.on_each(strategy, 16)[FORWARD].values())  # type: ignore[arg-type]
        for strategy in ("single", "ddp", "zero1", "zero2", "fsdp")
    }
    assert total == {
        "single": 360,
        "ddp": 360 + 80,
        "zero1": 80 + 80 + 10 + 40 + 80,
        "zero2": 80 + 5 + 10 + 40 + 8,
        "fsdp": 5 + 5 + 10 + 40 + 8 + (2 * 8 + 16) / 2,
    }


def test_the_largest_micro_batch_fits_and_one_row_more_does_not() -> None:
    lone = footprint_of({**dict.fromkeys(PARTS, 20.0), BACKWARD_BEGINS: 40.0})
    assert lone.most_rows("single", 1, 399.0) == 7  # 360 for 4 rows, 10 for each more
    assert lone.most_rows("single", 1, 329.0) == 0
    assert lone.most_rows("single", 1, 330.0) == 1


@pytest.mark.slow
def test_what_a_row_adds_is_what_the_next_trace_has() -> None:
    planned = step("size.n_layers=4", "trainer.precision=bf16", on_gpu=True)
    found = footprint(planned, n_rows=10, row_tokens=128, recompute="none")
    wide = trace(planned, n_rows=25)
    for part in PARTS:
        predicted = sum(found.peaks.parts[part].values()) + 15 * found.per_row[part]
        assert predicted == pytest.approx(sum(wide.parts[part].values()), rel=0.01)


@pytest.mark.slow
def test_an_average_of_the_weights_and_kept_gradients_are_counted() -> None:
    plain = step("size.n_layers=1")
    alone = trace(plain, n_rows=2).parts[FORWARD]
    weights = alone["parameters"]
    averaged = trace(replace(plain, averages=True), n_rows=2).parts[FORWARD]
    assert averaged["optimizer"] - alone["optimizer"] == weights
    kept = trace(replace(plain, keeps_gradients=True), n_rows=2).parts[BACKWARD_BEGINS]
    assert kept["gradients"] == weights

"""Measure whether a training is shorter with compiled layers, and keep what the compiler makes."""

import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.dropout import Dropout
from modules.transformer import EncoderDecoder, Transformer, set_compiled, set_recompute
from pipeline import report
from pipeline.config.construct import class_of, construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.trials import sweep_of
from pipeline.machine.devices import autocast_dtype, count_devices, device_of
from pipeline.machine.options import TrainerOptions
from pipeline.machine.out_of_memory import is_out_of_memory
from pipeline.words import clock

#: Seconds in the layers from which compiling them, which takes up to a minute, may be worth it.
LONG_S = 600.0
#: The speedup from which compiled layers are used.
MIN_SPEEDUP = 1.05
#: The largest difference of gradients, relative to their norm, that rounding explains.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.01}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
#: Where the environment says to keep compiled code, before this module changes it.
CACHE_OF_USER = os.environ.get(CACHE_VARIABLE)
N_ROUNDS, LONGEST_PASS_S, LONGEST_ROUNDS_S = 5, 10.0, 10.0


def is_faster_compiled(config: Config) -> bool:
    """Return whether to compile the layers of a run whose precision has been chosen; reports why.

    They are compiled and measured if the training is long. One in which the widths of batches vary, as in
    fine-tuning, would compile them several times; one on several devices, or in a sweep next to others, is
    not measured: these train without.
    """
    options = construct(config.trainer, TrainerOptions)
    has_length = options.max_steps is not None and options.max_epochs is None  # known before the rows are
    if config.stage.name != "pretrain" or not has_length or sweep_of(config) or count_devices(options) > 1:
        return False
    if issubclass(class_of(config.model.backbone, Transformer), EncoderDecoder):
        return False
    device = device_of(options)
    gpus = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        try:
            return _is_faster(config, options, device)
        except Exception as error:  # the compiler raises many types; the training can do without it
            if not is_out_of_memory(error):  # which the training itself will report
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                report.say("Compiling", f"is not possible here ({reason}), so layers are not compiled")
            return False


def use_own_cache(cache_dir: Path) -> None:
    """Keep compiled code in the project's cache, or where the environment says.

    Each set of instructions of the CPU has a folder: the cache of PyTorch 2.13 gives code made for AVX-512
    to a process that is restricted to AVX2, where it computes something else.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # which torch also sets it to

    is_ours = CACHE_OF_USER is None or default_cache_dir() == CACHE_OF_USER
    folder = cache_dir.absolute() / "compiled" if is_ours else Path(str(CACHE_OF_USER))
    instructions = torch.backends.cpu.get_cpu_capability().lower()
    os.environ[CACHE_VARIABLE] = str(folder if folder.name == instructions else folder / instructions)


@dataclass(frozen=True)
class _OneLayer:
    """A model with one layer of those that are trained, and a batch of full rows with two documents each."""

    model: nn.Module
    batch: dict[str, Tensor]
    output_gradient: Tensor
    precision: str

    @classmethod
    def build(cls, config: Config, options: TrainerOptions, device: torch.device) -> "_OneLayer":
        node = {**to_plain(config.model.backbone), "n_layers": 1}
        backbone = construct(node, Transformer, vocab_size=512).to(device)
        set_recompute(backbone, options.activation_checkpointing)
        shape = (options.batch_size, backbone.max_seq_len)
        segments = torch.ones(shape, dtype=torch.long, device=device)
        segments[:, shape[1] // 2 :] = 2
        ids = torch.randint(512, shape, device=device)
        batch = {"input_ids": ids, "segment_ids": segments}
        output_gradient = torch.randn((*shape, backbone.d_model), device=device)
        return cls(backbone, batch, output_gradient, options.precision)

    def seconds(self) -> float:
        """Return the duration of a forward and a backward pass."""
        began = time.perf_counter()
        self._pass()
        if self.batch["input_ids"].device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def gradient(self) -> Tensor:
        """Return the gradient by all weights, without dropout."""
        has_dropout = any(isinstance(part, Dropout) and part.p > 0 for part in self.model.modules())
        self.model.train(not has_dropout)
        self._pass()
        self.model.train()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def _pass(self) -> None:
        self.model.zero_grad()
        # As in Lightning's steps: the code that is compiled here is then that of the training.
        with self._autocast():
            hidden = self.model(self.batch)
        (hidden.float() * self.output_gradient).sum().backward()

    def _autocast(self) -> AbstractContextManager[object]:
        dtype, kind = autocast_dtype(self.precision), self.batch["input_ids"].device.type
        return nullcontext() if dtype is None else torch.autocast(kind, dtype, cache_enabled=False)


def _is_faster(config: Config, options: TrainerOptions, device: torch.device) -> bool:
    """Time a layer and, if that takes long in the whole training, compile, check and time it again."""
    layer = _OneLayer.build(config, options, device)
    eager_s = layer.seconds()
    if eager_s < LONGEST_PASS_S:  # the first pass also selects kernels
        eager_s = min(layer.seconds(), layer.seconds())
    layers_s = options.n_steps * options.accumulate * int(config.model.backbone.n_layers) * eager_s
    layers_s = min(layers_s, options.time_budget_s or math.inf)
    if layers_s < LONG_S:
        return False
    report.say("Compiling", f"one layer, to measure it: not compiled, the layers will take {clock(layers_s)}")
    began = time.monotonic()
    use_own_cache(Path(config.cache_dir))
    eager = layer.gradient()
    set_compiled(layer.model, True)
    difference = float((layer.gradient() - eager).norm() / eager.norm())
    if not difference <= TOLERANCES[layer.precision]:
        report.say("Compiling", f"changes gradients by {difference:.2g}, so layers are not compiled")
        return False
    speedup = _speedup(layer)
    used = speedup >= MIN_SPEEDUP
    report.say(
        "Compiling",
        f"makes layers {speedup:.2f} times as fast, so they are {'' if used else 'not '}compiled "
        f"(measured in {time.monotonic() - began:.0f} s)",
    )
    return used


def _speedup(layer: _OneLayer) -> float:
    """Return the ratio of the shortest of several durations, not compiled and compiled in turn."""
    layer.seconds()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    ends = time.monotonic() + LONGEST_ROUNDS_S
    while not seconds[True] or (len(seconds[True]) < N_ROUNDS and time.monotonic() < ends):
        for compiled, durations in seconds.items():
            set_compiled(layer.model, compiled)
            durations.append(layer.seconds())
    return min(seconds[False]) / min(seconds[True])

"""Measure whether a training is shorter with compiled layers, and keep what the compiler makes."""

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
from pipeline.machine.devices import count_devices, device_of
from pipeline.machine.options import TrainerOptions
from pipeline.words import clock

#: Seconds in the layers from which compiling them, which takes up to half a minute, may be worth it.
LONG_S = 600.0
#: The speedup from which compiled layers are used.
WORTH_IT = 1.05
#: The largest difference of gradients, relative to their norm, that rounding explains.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.01}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
N_ROUNDS, LONGEST_ROUNDS_S = 5, 10.0
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def is_faster_compiled(config: Config) -> bool:
    """Return whether to compile the layers of a run whose precision has been chosen; reports why.

    They are compiled and measured if the training is long. One in which the widths of batches vary, as in
    fine-tuning, would compile them several times, and one on several devices is not measured: both train
    without.
    """
    options = construct(config.trainer, TrainerOptions)
    if config.stage.name != "pretrain" or options.max_steps is None or count_devices(options) > 1:
        return False
    backbone = config.model.backbone
    if issubclass(class_of(backbone, Transformer), EncoderDecoder):
        return False
    with torch.random.fork_rng():
        layer = _OneLayer.of(config, options)
        first_s = layer.seconds()
        eager_s = min(layer.seconds(), layer.seconds()) if first_s < 1 else first_s
        training_s = options.n_steps * options.accumulate * int(backbone.n_layers) * eager_s
        if training_s < LONG_S:
            return False
        report.say("Compiling", f"one layer, to measure it: without, all will take {clock(training_s)}")
        use_own_cache(Path(config.cache_dir))
        try:
            return _is_faster(layer)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            report.say("Compiling", f"is not possible here ({reason}), so layers are not compiled")
            return False


def use_own_cache(cache_dir: Path) -> None:
    """Keep compiled code in the project's cache, or where the environment says.

    Each set of instructions of the CPU has a folder: the cache of PyTorch 2.13 gives code made for AVX-512
    to a process that is restricted to AVX2, where it computes something else.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    instructions = torch.backends.cpu.get_cpu_capability().lower()
    requested = os.environ.get(CACHE_VARIABLE, default_cache_dir())  # torch sets the variable to its default
    folder = cache_dir.absolute() / "compiled" if requested == default_cache_dir() else Path(requested)
    if folder.name != instructions:
        folder /= instructions
    os.environ[CACHE_VARIABLE] = str(folder)


@dataclass(frozen=True)
class _OneLayer:
    """A model with one layer of those that are trained, and a batch of full rows with two documents each."""

    model: nn.Module
    batch: dict[str, Tensor]
    direction: Tensor
    precision: str

    @classmethod
    def of(cls, config: Config, options: TrainerOptions) -> "_OneLayer":
        device, node = device_of(options), {**to_plain(config.model.backbone), "n_layers": 1}
        backbone = construct(node, Transformer, vocab_size=512).to(device)
        set_recompute(backbone, options.activation_checkpointing)
        shape = (options.batch_size, backbone.max_seq_len)
        segments = torch.ones(shape, dtype=torch.long, device=device)
        segments[:, shape[1] // 2 :] = 2
        ids = torch.randint(512, shape, device=device)
        batch = {"input_ids": ids, "segment_ids": segments}
        direction = torch.randn((*shape, backbone.d_model), device=device)
        return cls(backbone, batch, direction, options.precision)

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
        (hidden.float() * self.direction).mean().backward()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        kind = self.batch["input_ids"].device.type
        return torch.autocast(kind, _DTYPES[self.precision], cache_enabled=False)


def _is_faster(layer: _OneLayer) -> bool:
    """Compile, check and time a layer."""
    began = time.monotonic()
    eager = layer.gradient()
    set_compiled(layer.model, True)
    difference = float((layer.gradient() - eager).norm() / eager.norm())
    if not difference <= TOLERANCES[layer.precision]:
        report.say("Compiling", f"changes gradients by {difference:.2g}, so layers are not compiled")
        return False
    layer.seconds()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    timed_since = time.monotonic()
    while len(seconds[True]) < N_ROUNDS:
        for compiled, durations in seconds.items():
            set_compiled(layer.model, compiled)
            durations.append(layer.seconds())
        if time.monotonic() - timed_since > LONGEST_ROUNDS_S:
            break
    speedup = min(seconds[False]) / min(seconds[True])
    used = speedup >= WORTH_IT
    report.say(
        "Compiling",
        f"makes layers {speedup:.2f} times as fast, so they are {'' if used else 'not '}compiled "
        f"(measured in {time.monotonic() - began:.0f} s)",
    )
    return used

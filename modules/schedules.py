"""Learning-rate schedules: each is a pure function of the optimizer step.

`factor(step, max_steps)` is multiplied with the learning rate of every group. Steps count from 0, so a run
uses the factors of steps 0 .. max_steps - 1. The warm-up starts with a small factor instead of 0, and the
final ratio is reached at `max_steps`, one past the last update: no step has a learning rate of 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from modules.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """The base class of all schedules: a linear warm-up to 1, followed by the schedule itself.

    Args:
        warmup_steps: the length of the warm-up in optimizer steps; None: `warmup_fraction` of the run.
        warmup_fraction: the length of the warm-up as a fraction of the run, in [0, 1).

    Raises:
        ArgumentError: a length is negative, or a fraction is outside its range.
    """

    warmup_steps: int | None = None
    warmup_fraction: float = 0.02

    def __post_init__(self) -> None:
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ArgumentError(f"warmup_steps is {self.warmup_steps}", "0 or more", "use 0 for no warm-up")
        if not 0.0 <= self.warmup_fraction < 1.0:
            raise ArgumentError(
                f"warmup_fraction is {self.warmup_fraction}",
                "at least 0 and below 1",
                "use warmup_steps to set a number of steps",
            )

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor, in [0, 1], of learning rates at `step` (from 0) of a run of `max_steps`."""
        warmup = self.resolve_warmup_steps(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self._after_warmup(min(step, max_steps) - warmup, max_steps - warmup)

    def resolve_warmup_steps(self, max_steps: int) -> int:
        """Return the length of the warm-up in steps; a run that is shorter only warms up."""
        if self.warmup_steps is None:
            return int(self.warmup_fraction * max_steps)  # rounded down: never the whole run
        return min(self.warmup_steps, max_steps)

    def end_from(self, step: int) -> int:
        """Return the total steps of a run that stops gaining from the full learning rate at `step`."""
        return step

    @abstractmethod
    def _after_warmup(self, step: int, n_steps: int) -> float:
        """Return the factor `step` steps after the warm-up, of `n_steps` in total; `step` <= `n_steps`."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The full learning rate after the warm-up."""

    def _after_warmup(self, step: int, n_steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    """The base class of schedules that decay to a final ratio.

    Args:
        final_ratio: the factor at the end of the run, in [0, 1].
    """

    final_ratio: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.final_ratio <= 1.0:
            raise ArgumentError(
                f"final_ratio is {self.final_ratio}",
                "a fraction from 0 to 1",
                "use 0.1 to end at a tenth of the learning rate",
            )

    def _towards_final(self, height: float) -> float:
        """Interpolate: 1 gives the full learning rate, 0 the final one."""
        return self.final_ratio + (1.0 - self.final_ratio) * height


@dataclass(frozen=True, kw_only=True)
class Cosine(Decaying):
    """Half a cosine from 1 to `final_ratio`.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", eq. 5, without
    restarts.
    """

    def _after_warmup(self, step: int, n_steps: int) -> float:
        return self._towards_final(0.5 * (1.0 + math.cos(math.pi * step / max(n_steps, 1))))


@dataclass(frozen=True, kw_only=True)
class Linear(Decaying):
    """A straight line from 1 to `final_ratio`.

    Source: Bergsma et al. 2025, "Straight to Zero: Why Linearly Decaying the Learning Rate to Zero Works Best
    for LLMs", section 3.
    """

    def _after_warmup(self, step: int, n_steps: int) -> float:
        return self._towards_final(1.0 - step / max(n_steps, 1))


@dataclass(frozen=True, kw_only=True)
class WSD(Decaying):
    """Warm-up, stable, decay: the full learning rate, then a straight line to `final_ratio` at the end.

    Source: Hu et al. 2024, "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training
    Strategies", section 4.2; the linear decay is in Hägele et al. 2024, "Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations", section 3.

    Args:
        decay_fraction: the fraction of the steps after the warm-up in which it decays, in (0, 1].
    """

    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.decay_fraction <= 1.0:
            raise ArgumentError(
                f"decay_fraction is {self.decay_fraction}",
                "a fraction above 0 and up to 1",
                "use schedule=constant for no decay",
            )

    def end_from(self, step: int) -> int:
        """Return the total steps of a run whose decay begins at `step`."""
        return step if self.decay_fraction == 1.0 else math.ceil(step / (1.0 - self.decay_fraction))

    def _after_warmup(self, step: int, n_steps: int) -> float:
        decay_steps = max(round(self.decay_fraction * n_steps), 1)
        return self._towards_final(min((n_steps - step) / decay_steps, 1.0))

"""Read the learning curves of a run, over tokens and over seconds, from its spool."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.tracking.figures import Curve, interpolate, read_curves
from pipeline.tracking.spool import POINTS, lane_file

Floats = npt.NDArray[np.float64]

#: The most points in a curve; neighbouring points are averaged to stay below it.
MOST_POINTS = 300
TOKENS = "tokens_seen"
SECONDS = "wall_s"
FLOPS = "training_flops"


@dataclass(frozen=True, kw_only=True)
class History:
    """All metrics that a run logged: metric -> (step, value), in order of steps."""

    points: Mapping[str, Curve]

    @classmethod
    def read(cls, run_folder: Path) -> "History":
        """Read the history from the spool; it is empty for a run that was not tracked."""
        return cls(points=read_curves(lane_file(run_folder / "tracking", POINTS)))

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric."""
        curve = self.points.get(metric)
        return curve[-1][1] if curve else None

    def curve(self, metric: str, over: str) -> tuple[Floats, Floats] | None:
        """Return a metric over another one that increases with the steps, or None if either is missing."""
        if metric not in self.points or over not in self.points:
            return None
        steps, values = np.array(self.points[metric], np.float64).T
        x = interpolate(steps, self.points[over])
        fine = np.isfinite(values)
        return _thin(x[fine]), _thin(values[fine])


def _thin(values: Floats) -> Floats:
    if len(values) <= MOST_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, MOST_POINTS)])

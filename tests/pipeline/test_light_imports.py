"""Which packages are imported: counted in processes of their own, for what one imports stays imported."""

import json
import subprocess
import sys

from pipeline.light_imports import OPTIONAL

LIGHT = "from pipeline.light_imports import import_torchmetrics_alone; import_torchmetrics_alone()"


def said(code: str) -> list[object]:
    """What Python prints, as JSON, when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_lightning_comes_without_the_packages_of_metrics_that_nobody_uses_and_they_stay_importable() -> None:
    optional = sorted(OPTIONAL)
    code = f"""
import json, sys
{LIGHT}
import lightning, torch
from torchmetrics import MeanMetric
before = sorted({{name.partition('.')[0] for name in sys.modules}} & set({optional}))
mean = MeanMetric(); mean.update(torch.tensor([1.0, 2.0]))
from lightning_utilities.core.imports import RequirementCache, package_available
import matplotlib, scipy.signal
there = [package_available('scipy'), bool(RequirementCache('scipy'))]
print(json.dumps([before, float(mean.compute()), *there]))
"""
    assert said(code) == [[], 1.5, True, True]

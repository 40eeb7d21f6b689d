"""Which packages are imported: counted in processes of their own, for what one imports stays imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.light_imports import OPTIONAL

LIGHT = "from pipeline.light_imports import import_torchmetrics_alone; import_torchmetrics_alone()"


def said(code: str) -> list[object]:
    """What Python prints, as JSON, when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


@pytest.mark.slow
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


#: Command -> packages that it does without, from its start to the end of the process.
NEEDLESS = {
    ("pretrain", "trainer.max_step=1"): {"torch", "lightning", "datasets", "mlflow"},
    ("show-config",): {"torch", "lightning", "datasets", "mlflow"},
    ("generate", "bundle=none"): {"lightning", "datasets", "mlflow", *OPTIONAL},
    ("predict", "task=classify", "bundle=none"): {"lightning", "mlflow", *OPTIONAL},
    ("lineage", "bundle=none"): {"lightning", "datasets", "mlflow", *OPTIONAL},
    ("compare", "runs=[none]"): {"lightning", "datasets", "mlflow", *OPTIONAL},
    ("doctor", "tracking=off"): {"lightning", "datasets", "mlflow", *OPTIONAL},  # a store is asked by MLflow
}


@pytest.mark.slow
@pytest.mark.parametrize("words", NEEDLESS, ids=" ".join)
def test_a_command_imports_no_package_that_it_does_not_need(words: tuple[str, ...], tmp_path: Path) -> None:
    code = f"""
import contextlib, io, json, sys
from pipeline.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    main({[*words, f"runs_dir={tmp_path}"]})
print(json.dumps([name for name in sorted({NEEDLESS[words]}) if name in sys.modules]))
"""
    assert said(code) == []


@pytest.mark.slow
def test_a_first_step_whose_rows_are_in_the_cache_reads_no_corpus(tmp_path: Path) -> None:
    words = [
        "pretrain",
        "debug=quick",
        "tracking=off",
        f"runs_dir={tmp_path}",
        f"cache_dir={tmp_path / 'cache'}",
    ]
    needless = sorted({"datasets", "mlflow", *OPTIONAL})
    code = f"""
import json, os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
def say(*_):
    os.write(1, json.dumps([name for name in {needless} if name in sys.modules]).encode())
    os._exit(0)
register_optimizer_step_post_hook(say)
from pipeline.__main__ import main
main({words})
"""
    assert "datasets" in said(code)
    assert said(code) == []

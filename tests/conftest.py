"""Every test works in folders of its own and without a network, and as well on a slow machine."""

import math
import os
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports `datasets`, which reads these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="prelude-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
# The matrices of tests are small: a second thread costs more than it brings, and workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `nohup` ignores SIGHUP in all its processes, which keep it so; tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# By default Hypothesis fails an example that takes longer than 200 ms.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training in this process is long enough to be compiled: checks of shapes cannot be compiled."""
    monkeypatch.setattr("pipeline.machine.compiling.LONG_S", math.inf)

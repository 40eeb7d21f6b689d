"""Every test works in folders of its own and without a network."""

import os
import tempfile

# Before anything imports `datasets`, which reads these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="prelude-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
# The matrices of tests are small: a second thread costs more than it brings, and workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

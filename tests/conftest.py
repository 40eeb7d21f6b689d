"""Every test works in folders of its own and without a network."""

import os
import tempfile

# Before anything imports `datasets`, which reads these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="prelude-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"

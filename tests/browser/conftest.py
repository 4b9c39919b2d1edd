from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.browser.chromium import ARGUMENTS, find_chromium


@pytest.fixture(scope="module")  # while it is open, the driver's event loop runs in this thread: no async test can
def chromium() -> Iterator[Any]:
    """Return a running Chromium. Without playwright or a Chromium the tests are left out, and pytest prints why."""
    driver = pytest.importorskip("playwright.sync_api", reason="no tests in a browser: playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no tests in a browser: the machine has no Chromium; set CHROMIUM to its path")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()

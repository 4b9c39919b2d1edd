"""Find a Chromium that the machine has. The tests download no browser."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """Return the path of a Chromium: of the environment variable CHROMIUM, or a command of one of `NAMES`."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


# Chromium has no sandbox in a container without user namespaces. The pages come from the tests' own server.
ARGUMENTS = ["--no-sandbox"]

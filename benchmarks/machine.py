"""Describes the machine of a run, without names of persons, hosts and places."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from .processes import ROOT

PACKAGES = ("taskphase", "fastapi-tasks", "anyio", "trio", "uvloop", "starlette", "fastapi", "uvicorn", "httptools")
PEERS = ("aiojobs",)


def facts() -> dict[str, str]:
    """Return the facts about a run that a reader needs, by name."""
    packages = {name: version(name) for name in (*PACKAGES, *PEERS)}
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{system()}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "safe.directory=*", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "core", "fastapi_binding")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", and changes that are not in it" if changed else "")

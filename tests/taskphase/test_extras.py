"""G20, G21: an observer or queue imports its package only when it is asked for, and says how to install it."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = {"sentry": "sentry_sdk", "prometheus": "prometheus_client", "taskiq": "taskiq", "celery": "celery"}
INSTALL = {"taskiq": "taskiq taskiq-redis", "celery": "celery[redis]", "sentry": "'sentry-sdk<3'"}
VERSIONS = {"sentry": ", version 2"}
# The packages that those of the extras import.
DRIVERS = {"taskiq_redis", "redis", "kombu"}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("package", ["taskphase", "fastapi_tasks"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_without_its_package_an_observer_says_what_to_install_g20(package: str, extra: str) -> None:
    output = run(f"import sys; sys.modules[{EXTRAS[extra]!r}] = None; import {package}.{extra}")

    name = EXTRAS[extra].replace("_", "-")
    install = INSTALL.get(extra, name)
    said = f"ImportError: taskphase.{extra} needs the package {name}{VERSIONS.get(extra, '')}: pip install {install}"
    assert output.splitlines()[-1] == said


def test_with_version_3_of_sentry_the_observer_says_which_version_to_install_g20() -> None:
    pytest.importorskip("sentry_sdk")
    output = run("import sys; sys.modules['sentry_sdk.tracing'] = None; import taskphase.sentry")
    assert output.splitlines()[-1].endswith("version 2: pip install 'sentry-sdk<3'")


@pytest.mark.parametrize("package", ["taskphase", "fastapi_tasks"])
def test_a_package_imports_no_package_of_an_extra_g20(package: str) -> None:
    assert run(f"import sys, {package}; print(sorted({set(EXTRAS.values()) | DRIVERS!r} & set(sys.modules)))") == "[]\n"


@pytest.mark.parametrize("extra", EXTRAS)
def test_both_packages_have_the_same_observer_g20(extra: str) -> None:
    pytest.importorskip(EXTRAS[extra])
    code = f"import fastapi_tasks.{extra} as a, taskphase.{extra} as b; [name] = a.__all__\n"

    assert run(f"{code}assert a.__all__ == b.__all__; print(getattr(a, name) is getattr(b, name))") == "True\n"

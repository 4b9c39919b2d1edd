"""Builds and installs the packages like a user: the only test that needs a package index. About 10 s."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = str(ROOT / "constraints.txt")
SOURCES = {"taskphase": ROOT / "core" / "taskphase", "fastapi-tasks": ROOT / "fastapi_binding" / "fastapi_tasks"}
# Beside the package: the pytest plugin, and its entry point.
BESIDE = {"taskphase": set[str](), "fastapi-tasks": {"pytest_fastapi_tasks.py"}}
INFO = {"taskphase": set[str](), "fastapi-tasks": {"entry_points.txt"}}
README = {"taskphase": ROOT / "core" / "README.md", "fastapi-tasks": ROOT / "README.md"}

PIP_WITHIN = 40.0  # seconds for one pip, which needs about 5
RUN_WITHIN = 20.0  # seconds for the program, which needs less than one

# On plain asyncio, with only the core and its dependencies installed.
PROGRAM = """
import asyncio, importlib.util, sys
from taskphase import TaskHost, current_host

seen = []

async def note(what):
    current_host()
    seen.append(what)

async def main():
    async with TaskHost(drain_timeout=5) as host:
        await host.schedule(note, "host")
        async with host.scope() as tasks:
            async with tasks.route():
                tasks.schedule(note, "immediate")
                tasks.after_route.schedule(note, "after_route")
                thread = tasks.task(shield=True).after_response.schedule(seen.append, "after_response")
            seen.append("reply")
        await thread
        host.schedule(note, "drain")

asyncio.run(main())
print(*seen)
for name in ("fastapi", "fastapi_tasks", "starlette", "pydantic", "trio"):
    assert importlib.util.find_spec(name) is None, name
    assert name not in sys.modules, name
"""


def run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--no-input", *arguments]
    try:
        subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=PIP_WITHIN, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        pytest.fail(
            f"{exc}\nThis test needs a package index, for anyio and hatchling: is one in reach, and in pip's "
            f"configuration? pip said:\n{exc.output}",
            pytrace=False,
        )


def run_python(python: Path, program: str) -> str:
    """Run a program that sees the packages installed for `python`, and nothing of this repository."""
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", program], capture_output=True, text=True, timeout=RUN_WITHIN, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    run_pip(
        "wheel", "--no-deps", "--build-constraint", CONSTRAINTS, "--wheel-dir", str(folder), f"{ROOT}/core", f"{ROOT}"
    )
    return folder


@pytest.fixture(scope="module")
def core_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment in which `pip install ./core` was run."""
    folder = tmp_path_factory.mktemp("core") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run_pip("--python", str(python), "install", "-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS, f"{ROOT}/core")
    return python


def wheel_of(name: str, folder: Path) -> Distribution:
    [path] = folder.glob(f"{name.replace('-', '_')}-*.whl")
    [wheel] = distributions(path=[str(path)])
    return wheel


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_holds_its_package_and_the_licence_and_nothing_else(name: str, wheels: Path) -> None:
    wheel = wheel_of(name, wheels)
    source = SOURCES[name]
    package = {
        path.relative_to(source.parent).as_posix()
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    info = f"{source.name}-{wheel.version}.dist-info"

    assert f"{source.name}/py.typed" in package
    assert {str(file) for file in wheel.files or []} == package | BESIDE[name] | {
        f"{info}/{file}" for file in {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"} | INFO[name]
    }
    assert wheel.read_text("licenses/LICENSE") == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_says_what_it_needs_and_no_more(name: str, wheels: Path) -> None:
    wheel = wheel_of(name, wheels)
    version = wheel_of("taskphase", wheels).version
    needs = {"taskphase": ["anyio<5,>=4.9"], "fastapi-tasks": ["fastapi>=0.121.1", f"taskphase=={version}"]}

    assert wheel.metadata["Name"] == name
    assert wheel.version == version
    assert wheel.metadata["Requires-Python"] == ">=3.11"
    assert wheel.metadata["License-Expression"] == "MIT"
    assert wheel.metadata["Summary"]
    assert (wheel.metadata["Description"] or "").strip() == README[name].read_text().strip()
    assert "Typing :: Typed" in (wheel.metadata.get_all("Classifier") or [])
    requires = wheel.requires or []
    assert [each for each in requires if "extra ==" not in each] == needs[name]
    extras = set(re.findall(r"extra == .(\w+)", " ".join(requires)))
    assert extras == set(wheel.metadata.get_all("Provides-Extra") or []) != set()


def test_the_core_installed_alone_runs_every_phase_without_any_framework(core_only: Path) -> None:
    assert run_python(core_only, PROGRAM) == "host immediate after_route reply after_response drain"


def test_the_binding_installs_from_its_wheel_beside_the_core_of_the_same_version(
    core_only: Path, wheels: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "binding")
    run_pip(
        "--python", str(core_only), "install", "--target", target,
        "--no-deps", "--no-index", "--find-links", str(wheels), "fastapi-tasks",
    )  # fmt: skip

    [binding] = distributions(path=[target])
    version = run_python(core_only, "from importlib.metadata import version; print(version('taskphase'))")
    assert binding.metadata["Name"] == "fastapi-tasks"
    assert binding.version == version
    assert f"taskphase=={version}" in (binding.requires or [])
    assert (tmp_path / "binding" / "fastapi_tasks" / "py.typed").is_file()
    [plugin] = binding.entry_points
    assert (plugin.group, plugin.name, plugin.value) == ("pytest11", "fastapi_tasks", "pytest_fastapi_tasks")
    assert (tmp_path / "binding" / "pytest_fastapi_tasks.py").is_file()

"""G12: `add_tasks` takes every FastAPI app, even if the name `FastAPI` in `fastapi` has been replaced.

OpenTelemetry's instrumentation replaces it by a subclass. Each test is a new process, because Python imports a module
only once.
"""

import subprocess
import sys
from itertools import permutations

import pytest

INSTRUMENT = """
import fastapi
_original = fastapi.FastAPI
class _Instrumented(fastapi.FastAPI):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.is_instrumented = True
fastapi.FastAPI = _Instrumented
"""
# Some tools replace the name in `fastapi.applications` as well.
INSTRUMENT_BOTH = f"{INSTRUMENT}import fastapi.applications; fastapi.applications.FastAPI = _Instrumented\n"
IMPORT = "from fastapi_tasks import add_tasks, Tasks\n"
UNDO = "fastapi.FastAPI = _original; import fastapi.applications; fastapi.applications.FastAPI = _original\n"
OF_APPLICATIONS = "from fastapi.applications import FastAPI\n"
OF_FASTAPI = "from fastapi import FastAPI\n"
CHECK = """
import anyio, pytest
from starlette.applications import Starlette
app = FastAPI()
add_tasks(app)
assert isinstance(app, FastAPI)
class Mine(FastAPI): ...
add_tasks(Mine())
for thing in (FastAPI, Starlette(), None):
    with pytest.raises(TypeError, match="takes a FastAPI app"):
        add_tasks(thing)
with pytest.raises(RuntimeError, match="was called on this app before"):
    add_tasks(app)
ran = []
@app.get("/")
async def endpoint(tasks: Tasks) -> None:
    tasks.after_response.schedule(ran.append, 1)
from tests import wire
async def main():
    async with wire.lifespan(app):
        assert (await wire.request(app)).status == 200
        while not ran:
            await anyio.sleep(0.001)
anyio.run(main)
print("fine")
"""


def run(*code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("order", list(permutations("afi")), ids="".join)
def test_add_tasks_takes_an_app_in_any_order_of_imports_and_replacement_g12(
    order: tuple[str, ...],
) -> None:
    """a: fastapi_tasks is imported; f: FastAPI is imported; i: the name is replaced."""
    steps = {"a": IMPORT, "f": OF_FASTAPI, "i": INSTRUMENT_BOTH}
    assert run(*(steps[step] for step in order), CHECK) == "fine\n"


@pytest.mark.parametrize("made_of", [OF_APPLICATIONS, OF_FASTAPI], ids=["fastapi.applications", "fastapi"])
@pytest.mark.parametrize("undone", [False, True])
def test_add_tasks_takes_an_app_after_the_name_was_replaced_and_put_back_g12(made_of: str, undone: bool) -> None:
    assert run(INSTRUMENT, IMPORT, UNDO if undone else "", made_of, CHECK) == "fine\n"


def test_add_tasks_takes_an_app_that_was_made_before_the_name_was_replaced_g12() -> None:
    made = "from fastapi import FastAPI\nFirst = FastAPI\nearly = FastAPI()\n"
    early = "add_tasks(early)\nassert type(early).__mro__[2] is First\n"
    assert run(made, INSTRUMENT, IMPORT, early, OF_FASTAPI, CHECK) == "fine\n"


def test_the_recorder_takes_an_app_whose_class_was_replaced_g12() -> None:
    record = """
from fastapi_tasks.testing import record_tasks
app = FastAPI()
add_tasks(app)
with record_tasks(app) as tasks:
    assert list(tasks) == []
"""
    assert run(INSTRUMENT_BOTH, IMPORT, OF_FASTAPI, record, CHECK) == "fine\n"

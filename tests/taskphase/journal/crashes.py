"""A program that kills itself with SIGKILL before each statement of a journal in turn, and looks at what is left."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
from tests.taskphase.journal.stores import ALL, SEND, die, ids, look, opened, row, share, wrap

ROWS = [row(SEND, number, message_id=f"id {number}") for number in range(4)]


async def live(path: Path, kill_at: int, note: int) -> None:
    """Write, strike out, keep, take, count, close; write each step to `note` as soon as it is done."""
    left = kill_at

    def count(_statement: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(connection: Any) -> Any:
        connection.set_trace_callback(count)
        return connection

    mine = share(path)
    wrap(mine, watched)
    await mine.open()
    os.write(note, b"o")
    await mine.write(ROWS[:3])
    os.write(note, b"w")
    mine.strike_out(ROWS[0].message_id)
    mine.keep_failed(ROWS[1].message_id, "error")
    await mine.write([])
    os.write(note, b"e")
    taken = await mine.take(ALL)
    os.write(note, b"t")
    assert [each.message_id for each in taken.tasks] == [ROWS[3].message_id]
    assert await mine.count_run(ROWS[3].message_id)
    os.write(note, b"c")
    await mine.close()
    os.write(note, b"x")


async def check(path: Path, steps: str) -> None:
    """Check what the file has after a death behind `steps`."""
    states = dict(look(path))
    before, mine = states.pop(ROWS[3].message_id), ids(ROWS[:3])
    assert before == "due", "the task of another host is never lost"
    if "w" not in steps:
        assert sorted(states) in ([], mine), "all tasks of a route are written, or none"
    elif "e" not in steps:
        assert (mine[0] in states, states[mine[1]]) in ((True, "due"), (False, "failed")), "a transaction is whole"
    else:
        assert states == {mine[1]: "failed", mine[2]: "due"}
    deaths = dict(look(path, "message_id, recoveries"))[ROWS[3].message_id]
    if "x" in steps or "t" not in steps:
        assert deaths == 0
    elif "c" in steps:
        assert deaths in (0, 1)  # 0: the process has died behind its release
    async with opened(path) as heir:
        taken = await heir.take(ALL)
        due = [each for each, state in states.items() if state == "due"]
        assert sorted(each.message_id for each in taken.tasks) == sorted([*due, ROWS[3].message_id])
    assert not list(path.parent.glob(f"{path.name}.*.alive"))


async def prepare(path: Path) -> None:
    earlier = share(path)
    await earlier.open()
    await earlier.write(ROWS[3:])
    die(earlier)


def main(folder: Path, backend: str) -> None:
    kill_at = 0
    steps = ""
    while "x" not in steps:
        kill_at += 1
        path = folder / f"{kill_at}.db"
        anyio.run(prepare, path, backend=backend)
        reading, note = os.pipe()
        child = os.fork()
        if not child:
            anyio.run(live, path, kill_at, note, backend=backend)
            os._exit(0)
        os.close(note)
        status = os.waitpid(child, 0)[1]
        steps = os.read(reading, 100).decode()
        os.close(reading)
        assert os.WIFSIGNALED(status) != ("x" in steps), steps
        anyio.run(check, path, steps, backend=backend)
    sys.stdout.write(str(kill_at))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""What `make demo` runs: the quickstart app under uvicorn, and what its client and the server saw, side by side.

Whatever is claimed below a table is checked against the times in it. The exit code is 0 if all of it is true, else 1.
For Linux and macOS.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

EXAMPLES = Path(__file__).resolve().parent

READY_WITHIN = 10.0  # seconds; a cold start takes about 1 s
SEEN_WITHIN = 5.0  # seconds; the longest that has to be waited for is the 1.2 s of shielded work

CLIENT_WIDTH = 26  # characters

# The server's times are those of the machine's clock, and so are the client's: they can be compared.
LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"stamped": {"format": "%(created).6f %(name)s %(message)s"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "stamped"}},
    "root": {"level": "INFO", "handlers": ["stdout"]},
}
LOG_LINE = re.compile(r"(?P<at>\d+\.\d{6}) (?P<logger>\w+)\S* (?:127\.0\.0\.1:\d+ - )?(?P<text>.*)")
RUNNING = re.compile(r"Uvicorn running on (?P<url>http://\S+)")


class DemoError(Exception):
    """What the demo waits for does not come."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one side saw, and when. `at`: seconds since the epoch."""

    at: float
    side: str
    text: str

    def render(self, since: float) -> str:
        """Return it as a row of a table, with the milliseconds since `since`."""
        left, right = (self.text, "") if self.side == "client" else ("", self.text)
        return f"{(self.at - since) * 1000:6.0f}  {left:{CLIENT_WIDTH}}{right}".rstrip()


class Journal:
    """What both sides have seen so far. From any thread."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._shown = 0

    def note(self, text: str, side: str = "client", at: float | None = None) -> None:
        """Add a line. `at`: seconds since the epoch; default: now."""
        with self._changed:
            self._lines.append(Line(time.time() if at is None else at, side, text))
            self._changed.notify_all()

    def wait_for(self, text: str, seconds: float = SEEN_WITHIN) -> str:
        """Wait for a line that has `text` in it, and return it.

        :raises DemoError: if there is none after so many seconds
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._find(text), seconds):
                raise DemoError(f"waited {seconds:g} s for {text!r}")
            return self._find(text)[0].text

    def has_in_order(self, *texts: str) -> bool:
        """Return whether there is exactly one line with each of these texts, and these were seen in this order."""
        with self._changed:
            found = [self._find(text) for text in texts]
        times = [lines[0].at for lines in found if len(lines) == 1]
        return len(times) == len(texts) and times == sorted(times)

    def skip(self) -> list[Line]:
        """Return what was added since the last call, by time."""
        with self._changed:
            lines, self._shown = self._lines[self._shown :], len(self._lines)
        return sorted(lines, key=lambda line: line.at)

    def _find(self, text: str) -> list[Line]:
        return [line for line in self._lines if text in line.text]


class Server:
    """The quickstart app under uvicorn, in a process of its own, on a port that is free."""

    def __init__(self, journal: Journal, log_config: Path) -> None:
        app = ("quickstart:app", "--app-dir", str(EXAMPLES))
        place = ("--host", "127.0.0.1", "--port", "0", "--log-config", str(log_config))
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of our own
            [sys.executable, "-m", "uvicorn", *app, *place],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._journal = journal
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def url(self) -> str:
        """Wait until it answers, and return where."""
        match = RUNNING.search(self._journal.wait_for("Uvicorn running on", READY_WITHIN))
        assert match is not None
        return match["url"]

    def terminate(self) -> None:
        """Send SIGTERM, as a supervisor does that wants it to stop."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()

    def wait(self) -> int:
        """Wait until it has ended and all that it wrote is read; return its exit code, negative for a signal.

        :raises DemoError: if it does not end in time
        """
        try:
            code = self._process.wait(SEEN_WITHIN)
        except subprocess.TimeoutExpired:
            raise DemoError(f"waited {SEEN_WITHIN:g} s for the end of the server") from None
        self._reader.join(SEEN_WITHIN)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := LOG_LINE.fullmatch(line.rstrip("\n")):
                origin = "" if match["logger"] == "quickstart" else f"[{match['logger']}] "
                self._journal.note(origin + match["text"], "server", float(match["at"]))
            elif not line.startswith((" ", "Traceback")):  # of a traceback, its last line
                self._journal.note(f"  {line.rstrip()}", "server")


@contextmanager
def running_server(journal: Journal) -> Generator[Server]:
    """Start the server; in any case, it has ended when the block is left."""
    with tempfile.TemporaryDirectory(prefix="taskphase-demo-") as directory:
        log_config = Path(directory, "log.json")
        log_config.write_text(json.dumps(LOG_CONFIG))
        server = Server(journal, log_config)
        try:
            yield server
        finally:
            server.kill()
            server.wait()


class Report:
    """Prints what was seen and what that proves."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.is_true = True

    def table(self, title: str) -> None:
        """Print what was seen since the last table."""
        print(f"\n{title}\n\n    ms  {'the client sees':{CLIENT_WIDTH}}the server sees")
        lines = self._journal.skip()
        for line in lines:
            print(line.render(lines[0].at))
        print()

    def claim(self, text: str, *order: str) -> None:
        """Claim what is true if these lines came in this order."""
        self.claim_that(text, is_true=self._journal.has_in_order(*order))

    def claim_that(self, text: str, *, is_true: bool) -> None:
        """Claim something, and print whether it is true."""
        self.is_true = self.is_true and is_true
        print(f"{'    ok' if is_true else 'FAILED'}  {text}", flush=True)


def show_phases(client: httpx.Client, journal: Journal, report: Report) -> None:
    journal.note("POST /users")
    client.post("/users", params={"email": "ada@example.org"}).raise_for_status()
    journal.note("has the user")
    journal.wait_for("mail sent")
    report.table("One task in each phase: POST /users")
    report.claim("the immediate task ran beside the route", "route: storing", "avatar found", "route: returns")
    report.claim("the after_route task began before the response", "route: returns", "user_created", '"POST /users?')
    report.claim("the after_response task began after that", '"POST /users?', "writing to ada")
    report.claim("and the client did not wait for it", "has the user", "mail sent")


def show_stream(client: httpx.Client, journal: Journal, report: Report) -> None:
    journal.note("GET /export")
    with client.stream("GET", "/export") as response:
        for row in response.iter_lines():
            journal.note(f"has {row}")
    journal.note("has the whole export")
    journal.wait_for("audited export")
    report.table("A response that takes its time: GET /export")
    report.claim("the after_route task began before the response", "export_begun", '"GET /export')
    report.claim("the after_response task began after the last row of it", "stream: row 2", "audited export")


def show_failure(client: httpx.Client, journal: Journal, report: Report) -> None:
    journal.note("POST /imports")
    client.post("/imports").raise_for_status()
    journal.note("has the response")
    journal.wait_for("portrait.png is small")
    journal.wait_for("ConnectionError: ldap")
    report.table("A sync task, and one that fails: POST /imports")
    report.claim("the thread and the client did not wait for each other", "has the response", "portrait.png is small")
    report.claim(
        "the handler had the task run once more; the failure was logged once",
        "handler: attempt 1",
        "handler: attempt 2",
        "failed in attempt 2",
    )


def show_shutdown(client: httpx.Client, journal: Journal, report: Report, server: Server) -> None:
    journal.note("POST /payments/7")
    client.post("/payments/7").raise_for_status()
    journal.note("has the answer")
    journal.wait_for("unshielded: recommendations")
    journal.wait_for("payment 7 is being booked")
    journal.note("SIGTERM to the server")
    server.terminate()
    code = server.wait()
    journal.note("the server has ended")
    report.table("SIGTERM while tasks are under way: POST /payments/7")
    report.claim("what is not shielded was cancelled", "SIGTERM to", "unshielded: cancelled", "1 cancelled: recommend")
    report.claim(
        "what is shielded ran to its end, with the database open",
        "SIGTERM to",
        "payment 7 settled",
        "database closed",
        "server has ended",
    )
    report.claim_that(
        f"the exit code is {code}: uvicorn ends by the signal it was sent, after a complete shutdown",
        is_true=code == -signal.SIGTERM,
    )


def main() -> int:
    """Show everything, and return the exit code."""
    journal = Journal()
    report = Report(journal)
    with running_server(journal) as server:
        try:
            # The environment's proxies are not for loopback.
            with httpx.Client(base_url=server.url(), timeout=SEEN_WITHIN, trust_env=False) as client:
                report.table("The start: examples/quickstart.py under uvicorn")
                report.claim("the app's own startup came first", "database opened", "Uvicorn running on")
                show_phases(client, journal, report)
                show_stream(client, journal, report)
                show_failure(client, journal, report)
                show_shutdown(client, journal, report, server)
        except (DemoError, httpx.HTTPError) as error:
            report.table("Seen before the demo failed")
            report.claim_that(str(error), is_true=False)
    print("\nEverything was as promised." if report.is_true else "\nNot everything was as promised.")
    return 0 if report.is_true else 1


if __name__ == "__main__":
    sys.exit(main())

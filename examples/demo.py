"""What `make demo` runs: the quickstart app under uvicorn. Client and server, side by side, with times.

    python examples/demo.py [--record FILE]

Each claim below a table is checked against the times in the table. The exit code is 0 if every claim is true, else 1.
The output has colours on a terminal, unless NO_COLOR is set. `--record` also writes the run as JSON, from which
`docs/film.py` draws a picture. For Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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


# Numbers of SGR, by the first word of a line.
COLOURS = {"immediate": 36, "after_route": 35, "after_response": 32, "shielded": 33, "unshielded": 31}
BOLD, DIM, GREEN, RED = 1, 2, 32, 31
FIRST_WORD = re.compile(r"(\w+): |\[")

SUMMARY = "What you saw"


class DemoError(Exception):
    """What the demo waits for does not come."""


class Paint:
    """Colours text, if the output is a terminal that wants colours."""

    def __init__(self) -> None:
        self._is_on = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, style: int | None) -> str:
        """Return `text` in the style with this number, or unchanged."""
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_on and style is not None and text else text


@dataclass(frozen=True, slots=True)
class Line:
    """A line that the client or the server has noted. `at`: seconds since the epoch."""

    at: float
    side: str
    text: str

    def render(self, since: float, paint: Paint) -> str:
        """Return the row of a table, with the milliseconds since `since`."""
        time_cell = paint(f"{(self.at - since) * 1000:6.0f}", DIM)
        if self.side == "client":
            return f"{time_cell}  {paint(self.text, BOLD)}"
        return f"{time_cell}  {'':{CLIENT_WIDTH}}{paint(self.text, self._style())}"

    def _style(self) -> int | None:
        word = FIRST_WORD.match(self.text)
        if word is None:
            return None
        return COLOURS.get(word[1]) if word[1] else DIM


@dataclass(slots=True)
class Scene:
    """A table, and the claims that the times in the table prove. Times: milliseconds since the first line."""

    title: str
    summary: str
    lines: list[tuple[float, str, str]]
    claims: list[tuple[str, bool]]


class Log:
    """The lines of both sides so far. From any thread."""

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

    def __init__(self, log: Log, log_config: Path) -> None:
        app = ("quickstart:app", "--app-dir", str(EXAMPLES))
        place = ("--host", "127.0.0.1", "--port", "0", "--log-config", str(log_config))
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of our own
            [sys.executable, "-m", "uvicorn", *app, *place],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def url(self) -> str:
        """Wait until it answers, and return where."""
        match = RUNNING.search(self._log.wait_for("Uvicorn running on", READY_WITHIN))
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
                self._log.note(origin + match["text"], "server", float(match["at"]))
            elif not line.startswith((" ", "Traceback")):  # of a traceback, its last line
                self._log.note(f"  {line.rstrip()}", "server")


@contextmanager
def running_server(log: Log) -> Generator[Server]:
    """Start the server; in any case, it has ended when the block is left."""
    with tempfile.TemporaryDirectory(prefix="taskphase-demo-") as directory:
        log_config = Path(directory, "log.json")
        log_config.write_text(json.dumps(LOG_CONFIG))
        server = Server(log, log_config)
        try:
            yield server
        finally:
            server.kill()
            server.wait()


class Report:
    """Prints the tables, and what the tables prove."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._paint = Paint()
        self.scenes: list[Scene] = []

    @property
    def is_true(self) -> bool:
        """Whether every claim so far is true."""
        return all(is_true for scene in self.scenes for _, is_true in scene.claims)

    def table(self, title: str, summary: str = "") -> None:
        """Print the lines since the last table. `summary`: a line for the list at the end."""
        print(f"\n{self._paint(title, BOLD)}\n\n    ms  {'the client sees':{CLIENT_WIDTH}}the server sees")
        lines = self._log.skip()
        for line in lines:
            print(line.render(lines[0].at, self._paint))
        print()
        rows = [(round((line.at - lines[0].at) * 1000, 1), line.side, line.text) for line in lines]
        self.scenes.append(Scene(title, summary, rows, []))

    def claim(self, text: str, *order: str) -> None:
        """Claim what is true if these lines came in this order."""
        self.claim_that(text, is_true=self._log.has_in_order(*order))

    def claim_that(self, text: str, *, is_true: bool) -> None:
        """Claim something, and print whether the claim is true."""
        self.scenes[-1].claims.append((text, is_true))
        print(f"{self._mark(is_true)}  {text}", flush=True)

    def summarize(self) -> None:
        """Print a line for each table that has a summary."""
        print(f"\n{self._paint(SUMMARY, BOLD)}\n")
        for scene in self.scenes:
            if scene.summary:
                print(f"{self._mark(all(is_true for _, is_true in scene.claims))}  {scene.summary}")
        print("\nEverything was as promised." if self.is_true else "\nNot everything was as promised.")

    def _mark(self, is_true: bool) -> str:
        return self._paint("    ok", GREEN) if is_true else self._paint("FAILED", RED)


def show_phases(client: httpx.Client, log: Log, report: Report) -> None:
    log.note("POST /users")
    client.post("/users", params={"email": "ada@example.org"}).raise_for_status()
    log.note("has the user")
    log.wait_for("mail sent")
    report.table(
        "One task in each phase: POST /users",
        "Three phases: beside the route, before the response, after the response. No client waited for the end.",
    )
    report.claim("the immediate task ran beside the route", "route: storing", "avatar found", "route: returns")
    report.claim("the after_route task began before the response", "route: returns", "user_created", '"POST /users?')
    report.claim("the after_response task began after the response", '"POST /users?', "writing to ada")
    report.claim("the client did not wait for the after_response task", "has the user", "mail sent")


def show_stream(client: httpx.Client, log: Log, report: Report) -> None:
    log.note("GET /export")
    with client.stream("GET", "/export") as response:
        for row in response.iter_lines():
            log.note(f"has {row}")
    log.note("has the whole export")
    log.wait_for("audited export")
    report.table(
        "A response that takes its time: GET /export",
        "A stream: the after_response task began after the last row.",
    )
    report.claim("the after_route task began before the response", "export_begun", '"GET /export')
    report.claim("the after_response task began after the last row", "stream: row 2", "audited export")


def show_failure(client: httpx.Client, log: Log, report: Report) -> None:
    log.note("POST /imports")
    client.post("/imports").raise_for_status()
    log.note("has the response")
    log.wait_for("portrait.png is small")
    log.wait_for("ConnectionError: ldap")
    report.table(
        "A sync task, and one that fails: POST /imports",
        "A failure: retried once, logged once. It disturbed neither the other task nor the client.",
    )
    report.claim("the client did not wait for the thread", "has the response", "portrait.png is small")
    report.claim(
        "a second attempt, and then the handler; the failure was logged once",
        "in attempt 1; the next one comes in",
        "handler: fetch contacts is given up",
        "task 'fetch contacts' failed in attempt 2",
    )


def show_shutdown(client: httpx.Client, log: Log, report: Report, server: Server) -> None:
    log.note("POST /payments/7")
    client.post("/payments/7").raise_for_status()
    log.note("has the answer")
    log.wait_for("unshielded: recommendations")
    log.wait_for("payment 7 is being booked")
    log.note("SIGTERM to the server")
    server.terminate()
    code = server.wait()
    log.note("the server has ended")
    report.table(
        "SIGTERM while tasks are under way: POST /payments/7",
        "SIGTERM: one task was cancelled, the shielded payment was settled, and only then the database was closed.",
    )
    report.claim("the unshielded task was cancelled", "SIGTERM to", "unshielded: cancelled", "1 cancelled: recommend")
    report.claim(
        "the shielded task ran to its end, with the database open",
        "SIGTERM to",
        "payment 7 settled",
        "database closed",
        "server has ended",
    )
    report.claim_that(
        f"the exit code is {code}: uvicorn shut down completely, then ended by the signal",
        is_true=code == -signal.SIGTERM,
    )


def run(report: Report, log: Log) -> None:
    """Show everything."""
    with running_server(log) as server:
        try:
            # The environment's proxies are not for loopback.
            with httpx.Client(base_url=server.url(), timeout=SEEN_WITHIN, trust_env=False) as client:
                report.table("The start: examples/quickstart.py under uvicorn")
                report.claim("the app's own startup came first", "database opened", "Uvicorn running on")
                show_phases(client, log, report)
                show_stream(client, log, report)
                show_failure(client, log, report)
                show_shutdown(client, log, report, server)
        except (DemoError, httpx.HTTPError) as error:
            report.table("Seen before the demo failed")
            report.claim_that(str(error), is_true=False)
    report.summarize()


def main() -> int:
    """Show everything, and return the exit code."""
    parser = argparse.ArgumentParser(description="Show the quickstart app under uvicorn.")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the run to this file, as JSON")
    options = parser.parse_args()
    log = Log()
    report = Report(log)
    run(report, log)
    if options.record:
        options.record.write_text(json.dumps([asdict(scene) for scene in report.scenes], indent=1))
    return 0 if report.is_true else 1


if __name__ == "__main__":
    sys.exit(main())

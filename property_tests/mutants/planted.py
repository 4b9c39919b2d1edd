"""The planted bugs from the files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One bug: `new` replaces `old` in `file`, a path from the root of the repository.

    :ivar breaks: the guarantee that no longer holds
    :ivar seen: the effect that a user would see
    :ivar by: the test that is known to notice the bug, and runs first; None if unknown
    :ivar reason: why no property can notice the bug; None if a property must
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    seen: str
    by: str | None = None
    reason: str | None = None

    def change(self, text: str) -> str:
        """Return the text of `file` with the bug.

        :raises ValueError: if `old` does not occur exactly once, or its indentation is only a part of its line's
            indentation
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has the old text {text.count(self.old)} times, not once")
        if self.old.startswith(" ") and not text.partition(self.old)[0].endswith("\n"):
            raise ValueError(f"{self.name}: in {self.file} the old text is indented further")
        return text.replace(self.old, self.new)

    def plant(self, root: Path) -> None:
        """Change the file below `root`."""
        path = root / self.file
        path.write_text(self.change(path.read_text()))


@cache
def planted() -> tuple[Mutant, ...]:
    """Return all bugs, in the order of the files."""
    return tuple(_read())


def _read() -> Iterator[Mutant]:
    for path in sorted(HERE.glob("*.toml")):
        for name, fields in tomllib.loads(path.read_text()).items():
            yield Mutant(name, **fields)

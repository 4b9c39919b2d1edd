"""The planted bugs, as the files hold them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One bug: `new` in the place of `old` in `file`, a path from the root of the repository.

    :ivar breaks: the guarantee that no longer holds
    :ivar seen: what a user would see
    :ivar by: the test that is known to notice it, which is tried first; None if none is
    :ivar reason: why no property can notice it; None if one has to
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
        """Return the text of `file` with the bug in it.

        :raises ValueError: if `old` is not there exactly once, or its indentation is only a part of that of its line
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
    """Return every bug, in the order of the files."""
    return tuple(_read())


def _read() -> Iterator[Mutant]:
    for path in sorted(HERE.glob("*.toml")):
        for name, fields in tomllib.loads(path.read_text()).items():
            yield Mutant(name, **fields)

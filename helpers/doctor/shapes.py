"""The doctor's line."""

from __future__ import annotations

from dataclasses import dataclass

OK, FAIL, NOTE = " OK ", "FAIL", "NOTE"


@dataclass(frozen=True)
class Check:
    """One line of the doctor: `status` is `OK`, `FAIL` or `NOTE`; `mend` a command or hint."""

    status: str
    name: str
    detail: str
    mend: str = ""

    def __str__(self) -> str:
        """Return the line as it is printed, with the mend on a line of its own."""
        line = f"[{self.status}] {self.name}: {self.detail}"
        return f"{line}\n       -> {self.mend}" if self.mend else line

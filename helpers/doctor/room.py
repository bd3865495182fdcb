"""Many machines at a glance: the doctor's reports of a room in one table."""

from __future__ import annotations

import datetime
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.doctor.explain import FAIL, NOTE
from helpers.doctor.machine import read_report
from helpers.errors import InstallError
from helpers.install.kit import kit_name
from helpers.kit.targets import PYTHONS, SYSTEMS
from helpers.lessons.standing import printable
from helpers.tables import Cells, text_lines

_COLUMNS = {
    **dict.fromkeys(("id", "system", "Python", "backend"), "<"),
    "GPU MiB": ">,.0f",
    "RAM GiB": ">.1f",
    "tokens/s": ">,.1f",
    "ready": "<",
}
_NARROWEST, _WIDEST = 80, 120
_MOST_CHECKS, _LONGEST = 50, 400


@dataclass(frozen=True)
class Machine:
    """What the table shows of a report; `troubles` are names of checks, `to_do` what mends them.

    `target` is its system and its Python as `python3 -m helpers kit` wants them.
    """

    time: datetime.datetime
    cells: tuple[Any, ...]
    speed: float
    troubles: tuple[str, ...]
    to_do: tuple[str, ...]
    target: tuple[str, str]


def show_room(folder: Path) -> int:
    """Print the table of all reports in a folder, the worst first.

    Returns:
        The exit status: 1 if a machine is not ready.

    Raises:
        InstallError: There is no such folder, or no report in it.
    """
    if not folder.is_dir():
        raise InstallError(f"there is no folder {folder}: name the one with the reports")
    machines: dict[str, Machine] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            machine = _machine(read_report(path))
        except InstallError as error:
            print(f"skipped {printable(path.name)}: {error}")
        except (ValueError, LookupError, TypeError, OverflowError):
            print(f"skipped {printable(path.name)}: it is damaged")
        else:
            known = machines.setdefault(machine.cells[0], machine)
            machines[machine.cells[0]] = max(machine, known, key=lambda one: one.time)
    if not machines:
        raise InstallError(f"no report in {folder}: `python3 -m helpers doctor --report` makes one")
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST) - 10
    wrap = textwrap.TextWrapper(width, subsequent_indent="   ", break_on_hyphens=False).wrap
    rows: list[Cells] = []
    for machine in sorted(machines.values(), key=lambda one: (-len(one.troubles), one.speed)):
        rows.append(machine.cells)
        for line in machine.to_do:
            rows += [("", part) for part in wrap(f"-> {line}")]
    print(*text_lines(_COLUMNS, rows), sep="\n")
    bad = [machine.troubles for machine in machines.values() if machine.troubles]
    common = Counter(name for troubles in bad for name in {*troubles}).most_common(1)
    said = [f" Most common trouble: {name} ({n} of {len(machines)})." for name, n in common]
    print(f"{len(machines) - len(bad)} ready, {len(bad)} not.", *said, sep="")
    _show_kit(machines)
    return 1 if bad else 0


def _show_kit(machines: Mapping[str, Machine]) -> None:
    """Print the command for a kit that serves the whole room."""
    able = {
        name: machine.target
        for name, machine in machines.items()
        if machine.target[0] in SYSTEMS and machine.target[1] in PYTHONS
    }
    if able:
        has = {word for target in able.values() for word in target}
        systems, pythons = (
            " ".join(filter(has.__contains__, known)) for known in (SYSTEMS, PYTHONS)
        )
        print("A kit for this room, where OUT is a new folder:")
        print(f"  python3 -m helpers kit OUT --systems {systems} --pythons {pythons}")
    if without := sorted(machines.keys() - able.keys()):
        print(f"Their system or Python is none that kits are for: {', '.join(without)}")


def _machine(data: dict[str, Any]) -> Machine:
    """What the table shows of a report; where that has another form, something is raised."""
    checks = [
        {key: printable(check[key], _LONGEST) for key in ("status", "name", "detail", "fix")}
        for check in data["checks"][:_MOST_CHECKS]
    ]
    failed = [check for check in checks if check["status"] == FAIL]
    # Hints are for those who are ready, and a compiler is missed only where something is built.
    hints = [one for one in checks if one["status"] == NOTE and one["fix"] and not failed]
    shown = failed or [one for one in hints if one["name"] != "C++ compiler"]
    speed = float(data["eval_per_second"] or 0)
    python, system = printable(data["python"], 7), printable(data["system"], 17)
    kind = next((name for name in ("macos", "windows") if name in system.lower()), "linux")
    cells = (
        printable(data["id"], 8),
        system,
        python,
        printable(data["backend"] or "none", 7),
        float(data["gpu_mib"]) or None,
        float(data["memory_mib"] or 0) / 1024 or None,
        speed or None,
        "no" if failed else "yes",
    )
    return Machine(
        time=datetime.datetime.fromisoformat(data["time"]).astimezone(datetime.UTC),
        cells=cells,
        speed=speed,
        troubles=tuple(check["name"] for check in failed),
        to_do=tuple(f"{one['name']}: {one['fix'] or one['detail']}" for one in shown),
        target=(kit_name(kind, str(data["processor"])), ".".join(python.split(".")[:2])),
    )

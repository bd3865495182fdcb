"""The house: no circle among modules or rooms, and no import that climbs to a higher floor.

Imports inside functions and under TYPE_CHECKING count too: they are arrows all the same.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Ground floor first. A room may use its own floor and those below; "" is the package's public face.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "checks",
        "kv_types",
        "tables",
        "warn",
        "install",
        "timings",
        "recorder",
        "threads",
        "children",
        "files",
        "marked_text",
        "prompt",
        "lessons",
    ),
    ("load_options",),
    ("native", "models", "parameters"),
    ("convert", "memory", "grammars"),
    ("engine", "chat"),
    ("isolation", "remote"),
    ("llm",),
    ("bench", "doctor", "documents", "kit", "publish", "serve"),
    ("plots",),
    ("widgets",),
    ("cli", "__main__"),
    ("",),
)
Graph = dict[str, set[str]]


def import_graph(package: Path) -> Graph:
    """Each module of a package, and those modules of the package that it imports anywhere."""
    paths = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: _imported(name, path, set(paths)) for name, path in paths.items()}


def _imported(name: str, path: Path, modules: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, base] if base else here)
            # `from room import module` means the module, `from room import name` the room.
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & modules) | ({base} if inner - modules else set())
    return (found & modules) - {name}


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def room_graph(modules: Graph) -> Graph:
    rooms: Graph = {room_of(module): set() for module in modules}
    for module, imported in modules.items():
        rooms[room_of(module)] |= {room_of(other) for other in imported} - {room_of(module)}
    return rooms


def circle(graph: Graph) -> str:
    """Return one circle in words, or an empty text."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(name or "(the package)" for name in error.args[1])
    return ""


def climbs(modules: Graph, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return each import that goes to a higher floor, and each room that is on no floor."""
    floor = {room: number for number, rooms in enumerate(floors) for room in rooms}
    found = [f"{room} has no floor" for room in sorted(room_graph(modules).keys() - floor.keys())]
    for module, imported in sorted(modules.items()):
        for other in sorted(imported):
            high, low = floor.get(room_of(other), 0), floor.get(room_of(module), len(floors))
            if high > low:
                found.append(f"{module} (floor {low}) imports {other} (floor {high})")
    return found


@pytest.fixture(scope="module")
def helpers_graph() -> Graph:
    graph = import_graph(ROOT / "helpers")
    assert len(graph) > 100 and "helpers.errors" in graph["helpers.install.build"]
    return graph


def test_no_circle_among_modules(helpers_graph: Graph) -> None:
    assert circle(helpers_graph) == ""


def test_no_circle_among_rooms(helpers_graph: Graph) -> None:
    assert circle(room_graph(helpers_graph)) == ""


def test_no_import_climbs(helpers_graph: Graph) -> None:
    assert climbs(helpers_graph, FLOORS) == []


def test_every_room_of_the_table_exists(helpers_graph: Graph) -> None:
    named = [room for rooms in FLOORS for room in rooms]
    assert sorted(named) == sorted(room_graph(helpers_graph))


def package(folder: Path, **modules: str) -> Graph:
    """The graph of a made-up package `house`; `a__b` is the module `a.b`."""
    for name, code in {"__init__": "", **modules}.items():
        path = folder / "house" / (name.replace("__", "/") if name[0] != "_" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(code, encoding="utf-8")
    return import_graph(folder / "house")


LAZY = "def f():\n    from house.{} import g\n"
TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.{} import G\n"


@pytest.mark.parametrize("code", [LAZY, TYPED, "import house.{}\n", "from house import {}\n"])
def test_a_circle_is_found_however_it_is_imported(code: str, tmp_path: Path) -> None:
    graph = package(tmp_path, low="", high=code.format("low"))
    assert circle(graph) == "" and graph["house.high"] == {"house.low"}
    graph = package(tmp_path, low=code.format("high"), high=code.format("low"))
    assert set(circle(graph).split(" <- ")) == {"house.low", "house.high"}


def test_a_circle_of_rooms_may_hide_between_modules(tmp_path: Path) -> None:
    graph = package(
        tmp_path, a__one="from house.b.two import x\n", b__one="from ..a import two\n",
        a__two="", b__two="",
    )  # fmt: skip
    assert circle(graph) == "" and graph["house.b.one"] == {"house.a.two"}
    assert set(circle(room_graph(graph)).split(" <- ")) == {"a", "b"}


def test_a_climb_and_a_room_without_a_floor_are_named(tmp_path: Path) -> None:
    graph = package(tmp_path, low__part=LAZY.format("high"), high="", extra="import house\n")
    assert climbs(graph, (("low",), ("high", "extra"), ("",))) == [
        "house.extra (floor 1) imports house (floor 2)",
        "house.low.part (floor 0) imports house.high (floor 1)",
    ]
    assert climbs(graph, (("high", "low"), ("",)))[0] == "extra has no floor"

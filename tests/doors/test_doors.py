"""The other ways in: what their files promise is there, and the short forms of their programs."""

from __future__ import annotations

import json
import os
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

import psutil
import pytest
from packaging.specifiers import SpecifierSet

from helpers import InstallError, cli
from helpers.install import guest
from tests.doors import image
from tests.support import ROOT, wait_for

DATA = Path(__file__).parent / "data"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
STEPS = ROOT / ".docker" / "steps.sh"
SCRIPTS = [STEPS, ROOT / ".binder" / "postBuild"]
FIRST, SECOND = image.stages()
PYTHON = re.search(
    r"^ARG PYTHON=(\d\.\d+)-slim-\w+$", (ROOT / "Dockerfile").read_text("utf-8"), re.M
)


def plan(name: str) -> dict[str, object]:
    return dict(json.loads((DATA / f"plan_{name}.json").read_text(encoding="utf-8")))


def colab() -> dict[str, str]:
    lines = (DATA / "colab.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def helpers(*arguments: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "helpers", *arguments]
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="scripts of Linux")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_sound_and_stop_at_the_first_fault(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="scripts of Linux")
def test_the_dockerfile_runs_steps_that_exist_and_nothing_else() -> None:
    offered = re.findall(r"^(\w+)\(\) \{$", STEPS.read_text(encoding="utf-8"), re.M)
    run = [shlex.split(line) for stage in (FIRST, SECOND) for line in image.arguments(stage, "RUN")]
    assert [step for _, step in run] == ["compiler", "environment", "runtime", "prove"]
    assert {program for program, _ in run} == {".docker/steps.sh"}
    assert {step for _, step in run} <= set(offered)
    done = subprocess.run([STEPS, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    usage = done.stderr.split()[-1].split("|")
    assert set(usage) == set(offered) - {"packages"}


def test_the_image_is_small_pinned_and_without_privileges() -> None:
    assert PYTHON and SpecifierSet(PROJECT["requires-python"]).contains(PYTHON[1])
    assert [image.arguments(stage, "FROM") for stage in (FIRST, SECOND)] == [
        ["python:${PYTHON} AS build"],
        ["python:${PYTHON}"],
    ]
    names = [name for name, _ in SECOND]
    assert image.arguments(SECOND, "USER") == ["learner"], "it ends as root"
    assert names.index("USER") < names.index("CMD") and "ADD" not in names
    assert {name for name, rest in SECOND if "compiler" in rest} == set()
    # An environment knows its own place.
    places = {line for stage in (FIRST, SECOND) for line in image.arguments(stage, "WORKDIR")}
    assert image.arguments(SECOND, "COPY")[-1].split() == [
        "--from=build", "--chown=learner:learner", *places, ".",
    ]  # fmt: skip
    assert "rm -rf /var/lib/apt/lists" in STEPS.read_text(encoding="utf-8")
    assert "--no-install-recommends" in STEPS.read_text(encoding="utf-8")


def test_the_port_is_the_same_everywhere() -> None:
    command = json.loads(image.arguments(SECOND, "CMD")[-1])
    port = command[command.index("--port") + 1]
    assert image.arguments(SECOND, "EXPOSE") == [port]
    assert f"-p 127.0.0.1:{port}:{port} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"http://127.0.0.1:{port}/api" in STEPS.read_text(encoding="utf-8")
    health = json.loads(image.arguments(SECOND, "HEALTHCHECK")[0].partition("CMD ")[2])
    assert health == [".docker/steps.sh", "health"]
    assert int(port) in CONTAINER["forwardPorts"]


def test_the_image_gets_what_it_needs_and_not_what_it_does_not() -> None:
    kept = set(image.context())
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".docker/steps.sh"}
    assert needed <= kept
    assert {name.split("/")[0] for name in kept} >= {"helpers", "notebooks", "grammars", "workshop"}
    away = (".git", ".github/", "tests/", ".ci/", ".venv/")
    assert not [name for name in kept if name.startswith(away) and name != ".gitignore"]


def commands() -> list[list[str]]:
    """Each line of the doors that calls a command of the suite, without what comes before it."""
    texts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    texts += [CONTAINER["postCreateCommand"]]
    texts += [one["label"] for one in CONTAINER["portsAttributes"].values()]
    texts += [" ".join(json.loads(image.arguments(SECOND, "CMD")[-1]))]
    found = [line for text in texts for line in re.findall(r"-m helpers +(\S.*)", text)]
    return [line.split() for line in found]


def test_the_commands_and_their_options_exist() -> None:
    assert len(commands()) >= 6
    for name, *words in commands():
        assert name in cli.COMMANDS
        options = [word for word in words if word.startswith("--")]
        if options:
            _, offered, _ = helpers(name, "--help")
            assert not [one for one in options if one not in offered.replace(",", " ").split()]


def test_the_dev_container_is_complete_and_pinned() -> None:
    assert re.fullmatch(r"mcr\.microsoft\.com/[\w/]+:\d+-(3\.\d+)-\w+", CONTAINER["image"])
    for feature in CONTAINER["features"]:
        assert re.fullmatch(r"ghcr\.io/devcontainers/features/\w+:\d+\.\d+\.\d+", feature)
    assert CONTAINER["postCreateCommand"] == "python3 -m helpers lab --check"
    assert set(CONTAINER["portsAttributes"]) == set(map(str, CONTAINER["forwardPorts"]))
    settings = CONTAINER["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    for name in CONTAINER["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / name).exists()


def test_binder_has_a_python_packages_and_limited_jobs() -> None:
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8")
    version = re.fullmatch(r"python-(\d\.\d+)\n", runtime)
    assert version and SpecifierSet(PROJECT["requires-python"]).contains(version[1])
    packages = (ROOT / ".binder" / "apt.txt").read_text(encoding="utf-8").split()
    assert packages and all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in packages)
    build = SCRIPTS[1].read_text(encoding="utf-8")
    assert "CMAKE_BUILD_PARALLEL_LEVEL=1" in build and "2 GB" in build
    extras = re.search(r"helpers\.install\.guest ([\w ]+)\n", build)
    assert extras and set(extras[1].split()) <= set(PROJECT["optional-dependencies"])
    # With these in .binder, repo2docker looks at no other file of the repository.
    assert {path.name for path in (ROOT / ".binder").iterdir()} == {
        "apt.txt", "postBuild", "runtime.txt",
    }  # fmt: skip


def test_the_page_on_colab_shows_the_cell_that_is_tested() -> None:
    cell = (ROOT / ".colab" / "first_cell.py").read_text(encoding="utf-8")
    page = (ROOT / "workshop" / "colab.md").read_text(encoding="utf-8")
    assert f"```python\n{cell}```\n" in page
    compile(cell, "first_cell", "exec")
    extras = re.search(r"^join\((.+)\)$", cell, re.M)
    assert extras and set(re.findall(r"\w+", extras[1])) <= set(PROJECT["optional-dependencies"])
    for name in ("numpy", "pandas", "ipykernel"):
        assert f"{name} {colab()[name]}" in page


def test_pips_plan_for_colab_changes_nothing() -> None:
    assert guest.changes(plan("colab"), colab()) == []
    names = {one["metadata"]["name"] for one in plan("colab")["install"]}  # type: ignore[attr-defined]
    assert {"llama_cpp_python", "llguidance"} <= {name.replace("-", "_") for name in names}


def test_a_plan_that_changes_something_is_told_apart() -> None:
    (said,) = guest.changes(plan("old_numpy"), {"numpy": "1.20.0"})
    assert re.fullmatch(r"numpy 1\.20\.0 -> \d[\d.]+", said)
    # The suite's own package may change, and what is not there may come.
    assert guest.changes(plan("old_numpy"), {"llama-notebooks": "0.0.1"}) == []


def test_what_is_present_has_pips_names() -> None:
    found = guest.present()
    assert "llama-cpp-python" in found and all(re.fullmatch(r"[a-z0-9.-]+", one) for one in found)


@pytest.mark.parametrize("address", ["localhost.example", "192.0.2.1", "8888", "::ffff"])
def test_an_address_that_is_not_this_machines_is_one_line(address: str) -> None:
    status, output, error = helpers("lab", "--ip", address)
    assert status == 2 and output == ""
    assert error.startswith(f"error: this machine cannot listen on '{address}' (")
    assert "0.0.0.0 for every network" in error and error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="it is run there as a child's child")
def test_the_lab_listens_for_a_container_and_asks_for_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("JUPYTER_TOKEN", "a-token-of-the-test")
    command = [sys.executable, "-m", "helpers", "lab", "--ip", "0.0.0.0", "--no-browser"]
    server = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        assert server.poll() is None
        there = psutil.Process(server.pid).net_connections()
        return any(one.laddr == ("0.0.0.0", port) for one in there if one.laddr)

    def status(token: str) -> int:
        url = f"http://127.0.0.1:{port}/api/contents"
        request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
        try:
            return int(urllib.request.urlopen(request, timeout=60).status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    try:
        assert wait_for(listens, seconds=120)
        assert [status("a guess"), status(os.environ["JUPYTER_TOKEN"])] == [403, 200]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with `helpers` in it, as pip installs it: without the suite."""
    monkeypatch.setenv("LLAMA_NOTEBOOKS_CACHE", str(tmp_path / "cache"))
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=skip)
    (tmp_path / "llama_notebooks-0.1.0.dist-info").mkdir()
    return tmp_path


def test_a_package_without_the_suite_says_what_it_lacks(package: Path) -> None:
    status, _, error = helpers("lab", "--check", cwd=package)
    assert status == 2 and error.count("\n") == 1
    assert "needs the whole suite" in error and "get a clone or an archive" in error
    code = (
        "from helpers.install import recorded_backends; from helpers import recorded_answers\n"
        "from helpers.errors import InstallError\n"
        "for ask in (recorded_backends, lambda: recorded_answers('a')):\n"
        "    try:\n        ask()\n"
        "    except InstallError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("needs the whole suite") == 2


def test_clean_leaves_other_packages_in_peace(package: Path) -> None:
    (package / "build").mkdir()  # a package of that name exists
    (package / "build" / "__init__.py").touch()
    status, output, _ = helpers("clean", "--yes", cwd=package)
    assert status == 0 and str(package / "build") not in output
    assert (package / "build" / "__init__.py").exists()


def test_joining_needs_the_suite(package: Path) -> None:
    with pytest.raises(InstallError, match="needs the whole suite"):
        guest.join(root=package)
